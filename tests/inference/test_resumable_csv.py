"""A file that grows: whatever interrupts it, it is continued to the very file that it would have become."""

import pytest

from busfast.csvfile import read_rows
from busfast.errors import UserError
from busfast.inference.resumable_csv import ResumableCsv, check_place

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


def test_at_whatever_byte_it_was_cut_it_goes_on_to_the_same_file(out, monkeypatch):
    from busfast.inference import resumable_csv
    monkeypatch.setattr(resumable_csv, "EVERY", 0)
    whole = ResumableCsv(out, COLUMNS, "model", resume=False)
    for row in ROWS:
        whole.write([row])
    whole.finish()
    wanted = out.read_bytes()
    for safe in (0, 3, 10):
        for more in (b"", b"image", b"image 9,9\nimage 1"):
            out.unlink()
            file = ResumableCsv(out, COLUMNS, "model", resume=False)
            file.write(ROWS[:safe])
            file.close()
            with open(file.part, "ab") as part:
                part.write(more)  # written, but not yet known to be safe, when the power went
            again = ResumableCsv(out, COLUMNS, "model", resume=True)
            assert again.rows == safe
            again.write(ROWS[again.rows:])
            again.finish()
            assert out.read_bytes() == wanted


def test_nothing_to_resume_begins_anew(out):
    assert ResumableCsv(out, COLUMNS, "model", resume=True).rows == 0


@pytest.mark.parametrize(("columns", "about"), [(COLUMNS, "another"), (["image", "other"], "model")])
def test_what_was_begun_otherwise_is_not_mixed(out, columns, about):
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    with pytest.raises(UserError, match="another model, other inputs or other columns"):
        ResumableCsv(out, columns, about, resume=True)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"about": 1, "rows": 0, "bytes": "x"}', "[" * 100_000,
                                  '{"about": "x", "rows": 0, "bytes": 1000000}'])
def test_a_note_that_makes_no_sense_is_refused(out, note):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.close()
    file.note.write_text(note)
    with pytest.raises(UserError, match="Begin again: --overwrite"):
        ResumableCsv(out, COLUMNS, "model", resume=True)


def test_what_was_begun_to_replace_a_file_may_go_on_to_replace_it(out):
    out.write_text("old")
    check_place(out, overwrite=True, resume=False)
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    check_place(out, overwrite=False, resume=True)
    again = ResumableCsv(out, COLUMNS, "model", resume=True)
    again.close()
    check_place(out, overwrite=False, resume=True)  # and once more
    ResumableCsv(out, COLUMNS, "model", resume=True).finish()
    assert out.read_text() == "image,score\n" and left(out) == ["out.csv"]


def test_a_file_that_came_after_the_interruption_is_not_replaced(out):
    ResumableCsv(out, COLUMNS, "model", resume=False).close()
    out.write_text("mine")
    with pytest.raises(UserError, match="already there"):
        check_place(out, overwrite=False, resume=True)


def test_what_is_in_the_way_is_refused_before_any_work(out):
    check_place(out, overwrite=False, resume=False)
    out.write_text("mine")
    with pytest.raises(UserError, match="already there"):
        check_place(out, overwrite=False, resume=True)
    check_place(out, overwrite=True, resume=False)
    with pytest.raises(UserError, match="There is no folder"):
        check_place(out.parent / "no" / "out.csv", overwrite=False, resume=False)


def test_a_full_disk_keeps_what_is_safe(out):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write(ROWS[:2])
    file.close()
    again = ResumableCsv(out, COLUMNS, "model", resume=True)
    old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*Make room, then go on with --resume"):
            again.write(1000 * ROWS)
            again.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert ResumableCsv(out, COLUMNS, "model", resume=True).rows == 2


def test_cells_that_a_spreadsheet_would_run_are_made_harmless(out):
    file = ResumableCsv(out, COLUMNS, "model", resume=False)
    file.write([["=cmd()", "-1"], ["a\rb", "+x"]])
    file.finish()
    assert out.read_text().splitlines()[1] == "\"'=cmd()\",\"-1\""
    assert [cells for _, cells in read_rows(out, ("image",)).rows] == [["=cmd()", "-1"], ["a\rb", "+x"]]
