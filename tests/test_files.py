"""What a written file promises: there whole or not at all; and the nearest right word for a wrong one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from busfast.errors import UserError, choose
from busfast.files import atomic, remove_leftovers


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("mode", "content"), [("w", "größer\r\nals\n"), ("wb", b"\x00\xff\r\n")])
def test_what_was_written_is_there_to_the_byte(tmp_path, mode, content):
    with atomic(tmp_path / "file", mode) as file:
        file.write(content)
    assert (tmp_path / "file").read_bytes() == (content if mode == "wb" else content.encode("utf-8"))
    assert names(tmp_path) == ["file"]


def test_the_path_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic("file") as file:
        file.write("new")
    assert Path("file").read_text() == "new"


def test_the_old_content_stays_until_all_of_the_new_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic(path) as file:
        file.write("new" * 100_000)
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" * 100_000


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_a_failure_midway_leaves_what_was_there_and_nothing_else(tmp_path, failure, old):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with pytest.raises(failure), atomic(path) as file:
        file.write("new")
        raise failure
    assert names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_text() == old


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in ("best.pth", ".lock", ".hidden-file", "a-12345678"):
        (tmp_path / name).write_text("kept")
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch, atomic(tmp_path / "best.pth"):
        patch.setattr(os, "unlink", lambda path: None)  # as if it had been killed here
        raise KeyboardInterrupt
    assert len(names(tmp_path)) == 5
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden-file", ".lock", "a-12345678", "best.pth"]


def refusal(path):
    with pytest.raises(UserError) as caught, atomic(path) as file:
        file.write("new")
    return str(caught.value)


def test_a_folder_that_does_not_exist_is_refused_by_path(tmp_path):
    path = tmp_path / "nowhere" / "file"
    assert f"Cannot write {path}: No such file" in refusal(path)
    assert names(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_refused_by_path_and_stays(tmp_path):
    (tmp_path / "parent").write_text("old")
    assert f"Cannot write {tmp_path / 'parent' / 'file'}: Not a directory" in refusal(tmp_path / "parent" / "file")
    assert (tmp_path / "parent").read_text() == "old"
    assert names(tmp_path) == ["parent"]


def test_a_folder_in_place_of_the_file_is_refused_by_path_and_stays(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_text("old")
    assert f"Cannot write {tmp_path / 'file'}: " in refusal(tmp_path / "file")
    assert names(tmp_path) == ["file"]
    assert names(tmp_path / "file") == ["inside"]


def test_a_write_that_does_not_fit_is_refused_and_the_old_content_stays(tmp_path):
    pytest.importorskip("resource")
    (tmp_path / "file").write_text("old")
    code = """
import resource, signal
from busfast.errors import UserError
from busfast.files import atomic, remove_leftovers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic("file") as file:
        file.write("new" * 100_000)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    assert "Cannot write file: File too large" in done.stdout
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="permissions by umask are POSIX")
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_other_new_file(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "file") as file:
            file.write("new")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_choose_returns_a_right_value():
    assert choose("loader", "dali", ("auto", "dali")) == "dali"


def test_choose_names_the_nearest_and_all():
    with pytest.raises(UserError) as caught:
        choose("loader", "dally", (name for name in ("auto", "dali")))
    assert str(caught.value) == "Unknown loader 'dally'. Did you mean 'dali'? Choose from: auto, dali."


@pytest.mark.parametrize("value", ["zzz", "", None, 3])
def test_choose_does_not_guess_where_nothing_is_near(value):
    with pytest.raises(UserError) as caught:
        choose("loader", value, ("auto", "dali"))
    assert str(caught.value) == f"Unknown loader '{value}'. Choose from: auto, dali."
