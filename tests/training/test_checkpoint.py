"""A checkpoint is whole or refused, and the one before it is there until the new one is."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from busfast.errors import UserError
from busfast.training.checkpoint import (
    NAME,
    PREVIOUS,
    DamagedError,
    read_checkpoint,
    read_last,
    remove_checkpoints,
    write_checkpoint,
)


def state(epochs):
    weight = torch.arange(1000.) + epochs
    return {"epochs": epochs, "model": {"weight": weight}, "none": None, "random": (3, (1, 2), None)}


@pytest.fixture
def two(tmp_path):
    for epochs in (1, 2):
        write_checkpoint(tmp_path / NAME, state(epochs))
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_a_pickle(path):
    torch.save({"epochs": 9}, path)


DAMAGE = [cut, empty, flip, replace_by_a_pickle]


def test_what_was_written_is_read_with_its_types_and_the_one_before_is_kept(two):
    found = read_checkpoint(two / NAME)
    assert torch.equal(found["model"].pop("weight"), torch.arange(1000.) + 2)
    assert found == state(2) | {"model": {}} and isinstance(found["random"], tuple)
    assert read_checkpoint(two / PREVIOUS)["epochs"] == 1
    assert sorted(path.name for path in two.iterdir()) == sorted((NAME, PREVIOUS))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_found_out_and_the_one_before_it_used_which_is_said(two, damage, capsys):
    damage(two / NAME)
    with pytest.raises(DamagedError, match=NAME):
        read_checkpoint(two / NAME)
    assert read_last(two)["epochs"] == 1
    assert f"checkpoint: {two / NAME} is" in capsys.readouterr().out
    write_checkpoint(two / NAME, state(2))  # the damaged one does not take the place of the whole one
    assert read_checkpoint(two / PREVIOUS)["epochs"] == 1


def test_with_both_damaged_there_is_none_which_is_said(two, capsys):
    flip(two / NAME), cut(two / PREVIOUS)
    assert read_last(two) is None
    said = capsys.readouterr().out
    assert "continuing from the previous one" in said and "continuing from the first epoch" in said


def test_killed_between_the_two_renames_the_one_before_is_there(two, monkeypatch):
    renames = []

    def rename(*paths, original=os.replace):
        renames.append(paths)
        if len(renames) == 2:
            raise KeyboardInterrupt
        original(*paths)
    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(two / NAME, state(3))
    assert not (two / NAME).exists() and read_last(two)["epochs"] == 2


def test_more_than_tensors_and_plain_values_is_not_loaded(two):
    class Other:
        pass
    with pytest.raises((AttributeError, DamagedError)):  # refused at the latest when it is read
        write_checkpoint(two / NAME, {"epochs": Other()})
        read_checkpoint(two / NAME)


def test_a_full_disk_leaves_both_as_they_were(two):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*checkpoint.pt: .*unchanged"):
            write_checkpoint(two / NAME, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert read_checkpoint(two / NAME)["epochs"] == 2 and read_checkpoint(two / PREVIOUS)["epochs"] == 1
    assert sorted(path.name for path in two.iterdir()) == sorted((NAME, PREVIOUS))


def test_a_drive_that_vanished_is_a_clear_error(tmp_path):
    folder = tmp_path / "drive"
    folder.mkdir()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="Cannot write .*checkpoint.pt: No such file"):
        write_checkpoint(folder / NAME, state(1))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES])
def test_a_drive_that_cannot_be_written_leaves_both_as_they_were(two, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(UserError, match=f"Cannot write .*checkpoint.pt: {os.strerror(number)}"):
        write_checkpoint(two / NAME, state(3))
    assert read_checkpoint(two / NAME)["epochs"] == 2 and read_checkpoint(two / PREVIOUS)["epochs"] == 1


def test_they_are_removed_when_nothing_needs_them(two):
    remove_checkpoints(two)
    remove_checkpoints(two)
    assert not any(two.iterdir()) and read_last(two) is None


def test_no_file_is_left_to_be_flushed_when_it_is_closed_already(tmp_path):
    """Python 3.13 prints what goes wrong when a file object is thrown away; older ones in their development mode."""
    code = ("import torch, pathlib; from busfast.training.checkpoint import write_checkpoint; "
            "write_checkpoint(pathlib.Path('a.pt'), {'weight': torch.ones(3)})")
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, text=True, check=True)
    assert (tmp_path / "a.pt").is_file() and "Traceback" not in done.stderr
