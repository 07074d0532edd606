"""Files that survive: written beside their place, flushed to disk, then renamed."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from busfast.errors import UserError


def make_folder(folder: Path) -> None:
    """Makes a folder that the flag --out may name otherwise, with those above it, unless it is there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}. Name another folder: --out=FOLDER.") from error


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator:
    """Opens a file that appears at `path` whole or not at all; what stood there before stays until then.

    Args:
        path: where the file shall stand; its folder exists.
        mode: "w" for text (UTF-8, line ends as written) or "wb" for bytes.

    Raises:
        UserError: the disk is full, the folder is read-only or gone; the old file is untouched.
    """
    path = Path(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        share(temporary, 0o666)
        os.replace(temporary, path)
        temporary = None
        flush_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. What stood there before is untouched. "
            "Make room or choose a folder that can be written to, then run again."
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def share(path: str | Path, most: int) -> None:
    """Gives what `tempfile` made private the rights of any other file (`most`: 0o666) or folder (0o777) of its user."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, most & ~umask)


def move_file(fresh: Path, path: Path) -> None:
    """Gives a file that something else wrote its place, once it is on the disk; what stood there stays until then."""
    with open(fresh, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(fresh, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Writes a folder's names to disk, so that a renamed file is found there after a power cut (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives cannot; the file itself is on the disk
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that `atomic` left in a folder when its process was killed; nobody else writes."""
    for path in folder.glob(".*-*"):
        if re.fullmatch(r"\..+-[a-z0-9_]{8}", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path, on_busy: Callable[[], None], purpose: str) -> Iterator[None]:
    """Keeps other processes out until the end; the lock goes with the process, however it ends.

    Args:
        path: the lock file.
        on_busy: called where another process holds the lock: it raises, or prints a line and is followed by waiting.
        purpose: what no other process may do meanwhile, for drives without file locking, such as "trains this run".
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_busy()
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        print(f"file locking is unavailable on this drive ({error}); make sure that no other process {purpose}",
              flush=True)
    try:
        yield
    finally:
        lock.release()
