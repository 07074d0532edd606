"""Checkpoints, verified by a checksum, and the previous one in reserve; tensors and plain values, never a pickle.

A file is a line with the format's name, its version and the SHA-256 of the rest, then what `torch.save` wrote.
"""

import hashlib
import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from busfast.files import atomic

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
MAGIC = "busfast checkpoint 1"
_DIGITS = hashlib.sha256().digest_size * 2


class DamagedError(Exception):
    """A file that is not the checkpoint that was written; the message says why."""


def save_tensors(state: Any, file: BinaryIO) -> None:
    """Writes tensors and plain values with `torch.save`; raises the system's OSError, which torch hides."""
    try:
        torch.save(state, file)
    except RuntimeError as error:  # such as "unexpected pos ..." on a full disk
        raise OSError(None, f"{error.__cause__ or error.__context__ or error}") from error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; the checkpoint before is kept as checkpoint.previous.pt. At every moment one of
    the two is complete: the new one is on the disk before the old one is moved. UserError if it cannot be written.
    """
    with atomic(path, "w+b") as file:
        file.write(_header("0" * _DIGITS))
        start = file.tell()
        save_tensors(state, file)
        file.seek(start)
        digest = hashlib.sha256(file.read()).hexdigest()
        file.seek(0)
        file.write(_header(digest))
        file.flush()
        os.fsync(file.fileno())
        if path.exists():
            os.replace(path, path.with_name(PREVIOUS))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, on the CPU; raises DamagedError if it is not what was written, or FileNotFoundError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
    header, payload = data[:len(_header("0" * _DIGITS))], memoryview(data)[len(_header("0" * _DIGITS)):]
    if header != _header(hashlib.sha256(payload).hexdigest()):
        raise DamagedError(f"{path} " + ("is damaged: its checksum does not match"
                                         if header.startswith(MAGIC.encode())
                                         else "is not a checkpoint of this version of busfast"))
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedError(f"{path} cannot be read safely: it holds more than tensors and plain values") from error


def read_last(folder: Path) -> dict[str, Any] | None:
    """Returns the state of a folder's last intact checkpoint, or None; prints about damaged ones and removes them."""
    for name, instead in ((NAME, "the previous one"), (PREVIOUS, "the first epoch")):
        try:
            return read_checkpoint(folder / name)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            print(f"checkpoint: {error}; continuing from {instead}")
            with suppress(OSError):  # it must not become the previous one
                (folder / name).unlink()
    return None


def has_checkpoint(folder: Path) -> bool:
    """Returns whether a folder holds a checkpoint, intact or not."""
    return any((folder / name).exists() for name in (NAME, PREVIOUS))


def remove_checkpoints(folder: Path) -> None:
    """Removes a folder's checkpoints."""
    for name in (PREVIOUS, NAME):
        (folder / name).unlink(missing_ok=True)


def _header(digest: str) -> bytes:
    return f"{MAGIC} {digest}\n".encode()
