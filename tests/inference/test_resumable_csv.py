"""A file that grows: whatever interrupts it, it is continued to the very file that it would have become."""

import json
from contextlib import suppress

import pytest

from busfast.csvfile import read_rows
from busfast.errors import UserError
from busfast.inference.resumable_csv import ResumableCsv, check_output, check_same_inputs

COLUMNS = ["image", "score"]
ROWS = [[f"image {number}", str(number)] for number in range(10)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.csv"


def left(out):
    return sorted(path.name for path in out.parent.iterdir())


def test_a_whole_file_takes_its_name_and_leaves_nothing_else(out):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write(ROWS)
    assert left(out) == ["out.csv.part", "out.csv.part.json"]
    file.finish()
    assert left(out) == ["out.csv"]
    assert [cells for _, cells in read_rows(out, ("image",)).rows] == ROWS


def test_at_whatever_byte_it_was_cut_it_goes_on_to_the_same_file(out):
    rows = [*ROWS, ["quoted,\n\"image\"", "1"], ["a\rb", "2"]]
    whole = ResumableCsv(out, COLUMNS, "model", resume=False)
    for row in rows:
        whole.write([row])
    whole.finish()
    wanted = out.read_bytes()
    for size in range(len(wanted) + 1):
        out.unlink()
        file = ResumableCsv(out, COLUMNS, "model", resume=False)
        for row in rows:
            file.write([row])
        file.close()
        with open(file.part, "r+b") as part:
            part.truncate(size)
        again = ResumableCsv(out, COLUMNS, "model", resume=True)
        for row in rows[again.rows:]:
            again.write([row])
        again.finish()
        assert out.read_bytes() == wanted, size


def test_nothing_to_resume_begins_anew(out):
    assert ResumableCsv(out, COLUMNS, "model", resume=True).rows == 0


@pytest.mark.parametrize(("columns", "about"), [(COLUMNS, "another"), (["image", "other"], "model")])
def test_what_was_begun_otherwise_is_not_mixed(out, columns, about):
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    with pytest.raises(UserError, match="another model, other inputs or other columns"):
        ResumableCsv(out, columns, about, resume=True)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"about": 1, "replace": false}', "[" * 100_000, '{"about": "x"}',
                                  '{"about": "x", "replace": 0}'])
def test_a_note_that_makes_no_sense_is_refused(out, note):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.close()
    file.note.write_text(note)
    with pytest.raises(UserError, match="Start again: --overwrite"):
        ResumableCsv(out, COLUMNS, "model", resume=True)


def test_what_was_begun_to_replace_a_file_may_go_on_to_replace_it(out):
    out.write_text("old")
    check_output(out, overwrite=True, resume=False)
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    assert not check_output(out, overwrite=False, resume=True)
    again = ResumableCsv(out, COLUMNS, "model", resume=True)
    again.close()
    check_output(out, overwrite=False, resume=True)  # and once more
    ResumableCsv(out, COLUMNS, "model", resume=True).finish()
    assert out.read_text() == "image,score\n" and left(out) == ["out.csv"]


def test_a_file_that_came_after_the_interruption_is_not_replaced(out):
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    out.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        check_output(out, overwrite=False, resume=True)


def test_what_is_in_the_way_is_refused_before_any_work(out):
    assert not check_output(out, overwrite=False, resume=False)
    out.write_text("image,mine\nx.png,1\n")
    with pytest.raises(UserError, match="already exists"):
        check_output(out, overwrite=False, resume=False)
    assert check_output(out, overwrite=False, resume=True)  # complete, if it is about the same inputs
    check_same_inputs(out, ["x.png"])
    with pytest.raises(UserError, match="lists other inputs"):
        check_same_inputs(out, ["y.png"])
    assert not check_output(out, overwrite=True, resume=False)
    with pytest.raises(UserError, match="There is no folder"):
        check_output(out.parent / "no" / "out.csv", overwrite=False, resume=False)


def test_a_full_disk_keeps_what_is_safe(out):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write(ROWS[:2])
    file.close()
    again = ResumableCsv(out, COLUMNS, "model", resume=True)
    old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*Free some space, then continue with --resume"):
            again.write(1000 * ROWS)
        with suppress(UserError):  # of what is left in its buffer
            again.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    last = ResumableCsv(out, COLUMNS, "model", resume=True)
    assert last.rows >= 2
    rows = ROWS[:2] + 1000 * ROWS
    last.write(rows[last.rows:])
    last.finish()
    assert [cells for _, cells in read_rows(out, ("image",)).rows] == rows


def test_a_note_of_version_0_1_is_resumed(out):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write(ROWS[:4])
    file.close()
    note = json.loads(file.note.read_text())
    file.note.write_text(json.dumps(note | {"rows": 4, "bytes": file.part.stat().st_size}))
    assert ResumableCsv(out, COLUMNS, "model", resume=True).rows == 4


def test_cells_that_a_spreadsheet_would_run_are_made_harmless(out):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write([["=cmd()", "-1"], ["a\rb", "+x"]])
    file.finish()
    assert out.read_text().splitlines()[1] == "\"'=cmd()\",\"-1\""
    assert [cells for _, cells in read_rows(out, ("image",)).rows] == [["=cmd()", "-1"], ["a\rb", "+x"]]
