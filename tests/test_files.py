"""Files are written completely or not at all; locks; the cache folder; checks of what the user gave.

Covers busfast/errors.py, too.
"""

import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import filelock
import pytest

from busfast import files
from busfast.errors import UserError, check_range, choose, nearest, suggest_path
from busfast.files import atomic, file_lock, remove_leftovers


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


@pytest.mark.parametrize(("value", "choices", "found"), [
    ("efficientnet_bo", ["efficientnet_b0", "efficientnet_b1", "efficientnet_b8"], "efficientnet_b0"),
    ("Dali", ["auto", "dali"], "dali"), ("IMAGES", ["Images", "masks"], "Images"), ("x", [], ""), ("x", ["dali"], "")])
def test_the_nearest_is_the_first_of_equals_whatever_its_capitals(value, choices, found):
    assert nearest(value, choices) == found


def test_a_misspelt_path_is_suggested_with_its_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "image").touch()
    assert suggest_path("mine/IMAGES") == " Did you mean 'mine/images'?"
    assert suggest_path("mien/imags", os.path.isdir) == " Did you mean 'mine/images'?"
    assert suggest_path("mine/imag", os.path.isfile) == " Did you mean 'mine/image'?"
    assert suggest_path(tmp_path / "mine" / "imges") == f" Did you mean '{tmp_path / 'mine' / 'images'}'?"
    assert not any(map(suggest_path, ("", "mine/other", "other/images", "mine/image/x", "mine/\0")))


def test_choose_names_the_nearest_and_all():
    with pytest.raises(UserError) as caught:
        choose("loader", "dally", (name for name in ("auto", "dali")))
    assert str(caught.value) == "Unknown loader 'dally'. Did you mean 'dali'? Choose from: auto, dali."


@pytest.mark.parametrize("value", ["zzz", "", None, 3])
def test_choose_does_not_guess_where_nothing_is_near(value):
    with pytest.raises(UserError) as caught:
        choose("loader", value, ("auto", "dali"))
    assert str(caught.value) == f"Unknown loader '{value}'. Choose from: auto, dali."


@pytest.mark.parametrize(("value", "low", "high"), [(1, 1, 8), (8, 1, 8), (0.5, 0, 1)])
def test_a_number_within_its_range_passes(value, low, high):
    check_range("epochs", value, low, high)


@pytest.mark.parametrize("value", [0, 9, float("nan"), float("inf"), -1])
def test_a_number_out_of_range_is_refused_with_the_range(value):
    with pytest.raises(UserError) as caught:
        check_range("jobs", value, 1, 8, "the cores of this machine")
    assert str(caught.value) == \
        f"jobs={value} is out of range: give a number from 1 to 8 (the cores of this machine)."


def refuse_lock():
    raise UserError("busy")


def test_a_lock_that_another_holds_is_reported_and_free_afterwards(tmp_path):
    with file_lock(tmp_path / ".lock", refuse_lock, "trains"):
        with pytest.raises(UserError, match="busy"), file_lock(tmp_path / ".lock", refuse_lock, "trains"):
            raise AssertionError("two processes hold the lock")
    with file_lock(tmp_path / ".lock", refuse_lock, "trains"):
        pass


def test_a_lock_goes_with_the_process_that_held_it_and_whoever_waited_gets_it(tmp_path, capsys):
    code = """
import sys
from busfast.files import file_lock
with file_lock(sys.argv[1], lambda: None, "trains"):
    print("locked", flush=True)
    sys.stdin.read()
"""
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="busy"), file_lock(path, refuse_lock, "trains"):
            raise AssertionError("two processes hold the lock")
        with file_lock(path, holder.kill, "trains"):
            assert holder.wait() != 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_on_a_drive_without_locks_the_work_goes_on_with_a_warning(tmp_path, monkeypatch, capsys, error):
    def acquire(self, timeout=None):
        raise error
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with file_lock(tmp_path / ".lock", refuse_lock, "trains this run"):
        out = capsys.readouterr().out
    assert "file locking is unavailable on this drive" in out and "no other process trains this run" in out


@pytest.mark.parametrize("system", ["unix.Unix", "windows.Windows", "macos.MacOS"])
def test_the_cache_folder_is_where_the_system_keeps_such_files(monkeypatch, tmp_path, system):
    module, name = system.split(".")
    monkeypatch.setattr(files, "PlatformDirs", getattr(import_module(f"platformdirs.{module}"), name))
    monkeypatch.delenv("BUSFAST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("platformdirs.windows.get_win_folder", {"CSIDL_LOCAL_APPDATA": r"C:\local"}.get)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == {"Unix": tmp_path / ".cache" / "busfast", "Windows": Path(r"C:\local", "busfast"),
                                    "MacOS": tmp_path / "Library" / "Caches" / "busfast"}[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert name != "Unix" or files.cache_folder() == tmp_path / "xdg" / "busfast"
    monkeypatch.setenv("BUSFAST_CACHE", "mine")
    assert files.cache_folder() == Path("mine")


def test_a_user_without_a_home_folder_has_no_cache_folder(monkeypatch):
    monkeypatch.delenv("BUSFAST_CACHE")
    monkeypatch.setattr(files.PlatformDirs, "user_cache_path", Path("~/.cache/busfast"))
    with pytest.raises(RuntimeError, match="no home folder"):
        files.cache_folder()
