"""Files that survive a crash: written to a temporary file, flushed to disk, then renamed. Locks; the cache folder."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import PlatformDirs

from busfast.errors import UserError


def cache_folder() -> Path:
    """Returns where busfast caches: $BUSFAST_CACHE, or `busfast` in this user's cache folder.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if os.environ.get("BUSFAST_CACHE"):
        return Path(os.environ["BUSFAST_CACHE"])
    folder = PlatformDirs("busfast", appauthor=False, opinion=False).user_cache_path
    if folder.parts[0] == "~":
        raise RuntimeError("this user has no home folder")
    return folder


def make_folder(folder: Path) -> None:
    """Makes an output folder and its parents; UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}. Name another folder: --out=FOLDER.") from error


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator:
    """Opens a file that appears at `path` only once it is complete; an existing file stays until then.

    Args:
        path: the file; its folder exists.
        mode: "w" for text (UTF-8, line ends as written) or "wb" for bytes.

    Raises:
        UserError: the disk is full, or the folder is read-only or missing; an existing file is unchanged.
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
        raise UserError(f"Cannot write {path}: {error.strerror or error}. An existing file is unchanged. "
                        "Free some space or choose a writable folder, then run again.") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def share(path: str | Path, permissions: int) -> None:
    """Gives a private file (0o666) or folder (0o777) of `tempfile` the usual permissions of its user."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, permissions & ~umask)


def move_file(source: Path, target: Path) -> None:
    """Moves a finished file to its place, once it is on the disk; an existing file stays until then."""
    with open(source, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    flush_folder(target.parent)


def flush_folder(folder: Path) -> None:
    """Writes a folder's entries to disk, so that a renamed file survives a power cut (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives cannot; the file itself is on the disk
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that `atomic` left when its process was killed; no other process may be writing."""
    for path in folder.glob(".*-*"):
        if re.fullmatch(r"\..+-[a-z0-9_]{8}", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path, on_busy: Callable[[], None], purpose: str) -> Iterator[None]:
    """Holds a lock against other processes; it is released when the process ends, however that happens.

    Args:
        path: the lock file.
        on_busy: called if another process holds the lock; it raises, or prints a line before the wait.
        purpose: what no other process may do meanwhile, such as "trains this run"; printed where files cannot be
            locked.
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
        print(f"file locking is unavailable on this drive ({error}); make sure that no other process {purpose}")
    try:
        yield
    finally:
        lock.release()
