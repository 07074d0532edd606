"""A CSV file that grows row by row, survives being interrupted at any moment, and appears under its name when whole."""

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from busfast.csvfile import escape, read_rows
from busfast.errors import UserError
from busfast.files import atomic

EVERY = 2.0  # seconds between two moments from which an interrupted file can be continued


def check_place(out: Path, overwrite: bool, resume: bool) -> None:
    """Refuses, before any work, a file that may not be written.

    Args:
        out: the file to become.
        overwrite: whether it may be replaced.
        resume: whether an interrupted one shall be continued.

    Raises:
        UserError: it, or an interrupted one, is there; there is no such folder; both flags.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: begin again, or go on.")
    if out.exists() and not overwrite and not (resume and _may_replace(out)):
        raise UserError(f"{out} is already there. Name another file (--out=FILE) or replace it (--overwrite).")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent} to write {out.name} to. Make it first.")
    if _part(out).exists() and not (overwrite or resume):
        raise UserError(f"{_part(out)} is there, of a prediction that was interrupted. Go on (--resume) or begin again "
                        "(--overwrite).")


def is_done(out: Path) -> bool:
    """Returns whether there is a file, and none that was interrupted beside it."""
    return out.is_file() and not _part(out).exists()


def check_same(out: Path, names: Sequence[str]) -> None:
    """Refuses a file that is not about the same inputs, in the same order.

    Args:
        out: a whole file.
        names: what its column `image` should hold.

    Raises:
        UserError: it holds something else.
    """
    header, rows, _ = read_rows(out, ("image",), empty=True)
    place = header.index("image")
    if [cells[place] for _, cells in rows] != list(names):
        raise UserError(f"{out} is already there, whole, and about other inputs, so there is nothing to resume. Name "
                        "another file (--out=FILE) or replace it (--overwrite).")


def _may_replace(out: Path) -> bool:
    """Whether an interrupted file was begun to replace `out`."""
    try:
        return json.loads(_note(out).read_text(encoding="utf-8"))["replace"] is True
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.part.json")


class ResumableCsv:
    """Writes `OUT.part` and, every few seconds, how much of it is safely on disk into `OUT.part.json`.

    Args:
        out: the file to become.
        columns: its header.
        about: plain values that decide the rows; a file is only continued with the same.
        resume: continue an interrupted file, if there is one.

    Attributes:
        rows: how many rows (after the header) it has.

    Raises:
        UserError: an interrupted file is there and is not to be continued, or not about the same; or it cannot be
            written.
    """

    def __init__(self, out: Path, columns: Sequence[str], about: Any, resume: bool):
        self.out, self.part, self.note = out, _part(out), _note(out)
        self.about = hashlib.sha256(json.dumps([list(columns), about]).encode()).hexdigest()
        self.rows, self.replace = 0, out.exists()
        try:
            old = self._read_note() if resume else None
            if not resume:
                self.note.unlink(missing_ok=True)
            self._file = open(self.part, "r+b" if old else "wb")
            if old:
                self.rows, self.replace = old["rows"], old["replace"]
                self._file.truncate(old["bytes"])
                self._file.seek(old["bytes"])
            else:
                self._write([columns])
            self._settle()
        except OSError as error:
            raise self._cannot(error) from error

    def _read_note(self) -> dict[str, Any] | None:
        """What is known of an interrupted file; None if there is none, or nothing of it is safe."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            size = self.part.stat().st_size
            if (note.keys() != {"about", "rows", "bytes", "replace"}
                    or {type(note["rows"]), type(note["bytes"])} != {int} or type(note["replace"]) is not bool
                    or not 0 < note["bytes"] <= size or note["rows"] < 0):
                raise ValueError("not one of ours")
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.note} does not tell how much of {self.part.name} is good ({error}). Begin again: "
                            "--overwrite.") from error
        if note["about"] != self.about:
            raise UserError(f"{self.part} was begun with another model, other inputs or other columns. Finish it with "
                            "those, or begin again: --overwrite.")
        return note

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Adds rows, a cell a column."""
        rows = list(rows)
        try:
            self._write(rows)
            self.rows += len(rows)
            if time.monotonic() - self._settled > EVERY:
                self._settle()
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Makes safe what was written; the file can be continued."""
        try:
            with self._file:
                self._settle()
        except OSError as error:
            raise self._cannot(error) from error

    def finish(self) -> None:
        """Gives the whole file its name."""
        self.close()
        try:
            os.replace(self.part, self.out)
            self.note.unlink()
        except OSError as error:
            raise self._cannot(error) from error

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        text, rows = io.StringIO(newline=""), [[escape(cell) for cell in row] for row in rows]
        # As write_csv: Python before 3.13 leaves a lone carriage return unquoted.
        torn = any("\r" in str(cell) for row in rows for cell in row)
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if torn else csv.QUOTE_MINIMAL).writerows(rows)
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))  # a file's name may be no UTF-8

    def _settle(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        with atomic(self.note) as file:
            json.dump({"about": self.about, "rows": self.rows, "bytes": self._file.tell(), "replace": self.replace},
                      file)
        self._settled = time.monotonic()

    def _cannot(self, error: OSError) -> UserError:
        return UserError(f"Cannot write {self.part}: {error.strerror or error}. Make room, then go on with --resume.")
