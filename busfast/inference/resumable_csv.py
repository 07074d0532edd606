"""A CSV file that is written row by row as OUT.part, can be resumed after an interruption, and ends as OUT."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busfast.csvfile import escape, read_rows
from busfast.errors import UserError
from busfast.files import atomic, move_file


def check_output(out: Path, overwrite: bool, resume: bool) -> bool:
    """Checks, before any work, that an output file may be written, or resumed; returns whether it is complete already.
    UserError: the file or an interrupted one exists; its folder does not; both flags are set."""
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other. Give one of them.")
    if resume and out.is_file() and not _part(out).exists():
        return True
    if out.exists() and not overwrite and not (resume and _read_note(out).get("replace")):
        raise UserError(f"{out} already exists. Name another file (--out=FILE) or replace it (--overwrite).")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent} to write {out.name} to. Create it first.")
    if _part(out).exists() and not (overwrite or resume):
        raise UserError(f"{_part(out)} exists: a prediction was interrupted. Continue it (--resume) or start again "
                        "(--overwrite).")
    return False


def check_same_inputs(out: Path, names: Sequence[str]) -> None:
    """Raises UserError unless the column `image` of a complete file holds `names`, in the same order."""
    header, rows, _ = read_rows(out, ("image",), empty=True)
    column = header.index("image")
    if [cells[column] for _, cells in rows] != list(names):
        raise UserError(f"{out} is complete but lists other inputs, so there is nothing to resume. Name another file "
                        "(--out=FILE) or replace it (--overwrite).")


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.part.json")


def _read_note(out: Path) -> dict[str, Any]:
    """Returns the note on an interrupted file: about (a hash), replace (whether `out` may be replaced); {}: no note."""
    try:
        note = json.loads(_note(out).read_text(encoding="utf-8"))
        return note if isinstance(note["about"], str) and isinstance(note["replace"], bool) else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _complete_rows(path: Path) -> tuple[int, int]:
    """Returns the number of complete rows of a CSV file, including the header, and the offset of their end in bytes."""
    rows = end = position = quotes = 0
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            quotes += line.count(b'"')
            if line.endswith(b"\n") and quotes % 2 == 0:  # a quoted cell may hold line ends
                rows, end = rows + 1, position
    return rows, end


class ResumableCsv:
    """Writes `OUT.part`; `OUT.part.json` beside it identifies what it belongs to. `rows` counts those written.

    With `resume`, an interrupted file is continued, without its unfinished last row, if its columns and `about`, JSON
    values that determine the rows, are the same. Raises UserError if they are not, or the file cannot be written.
    """

    def __init__(self, out: Path, columns: Sequence[str], about: Any, resume: bool):
        self.out, self.part, self.note = out, _part(out), _note(out)
        digest = hashlib.sha256(json.dumps([list(columns), about]).encode()).hexdigest()
        with self._explain_errors():
            complete = end = 0
            if resume and self.part.is_file() and self.note.is_file():
                saved = _read_note(out).get("about")
                if saved is None:
                    raise UserError(f"{self.note} does not describe {self.part.name}. Start again: --overwrite.")
                if saved != digest:
                    raise UserError(f"{self.part} was started with another model, other inputs or other columns. "
                                    "Finish it with those, or start again: --overwrite.")
                complete, end = _complete_rows(self.part)
            if complete:
                os.truncate(self.part, end)
                self._file = open(self.part, "ab")
            else:
                self.note.unlink(missing_ok=True)
                self._file = open(self.part, "wb")
                self._write([columns])
                with atomic(self.note) as file:
                    json.dump({"about": digest, "replace": out.exists()}, file)
            self.rows = max(0, complete - 1)

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Appends rows, a cell for each column."""
        rows = list(rows)
        with self._explain_errors():
            self._write(rows)
        self.rows += len(rows)

    def close(self) -> None:
        """Closes the unfinished file, which can be resumed."""
        with self._explain_errors():
            self._file.close()

    def finish(self) -> None:
        """Renames the complete file to `out`."""
        self.close()
        with self._explain_errors():
            move_file(self.part, self.out)
            self.note.unlink()

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        text, rows = io.StringIO(newline=""), [[escape(cell) for cell in row] for row in rows]
        # As write_csv: Python before 3.13 does not quote a lone carriage return.
        has_return = any("\r" in str(cell) for row in rows for cell in row)
        csv.writer(text, lineterminator="\n",
                   quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerows(rows)
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))  # a file name may be invalid UTF-8
        self._file.flush()

    @contextmanager
    def _explain_errors(self):
        try:
            yield
        except OSError as error:
            raise UserError(f"Cannot write {self.part}: {error.strerror or error}. Free some space, then continue "
                            "with --resume.") from error
