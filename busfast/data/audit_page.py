"""An audit as one page with the pictures in it: no script, nothing fetched, so that it can be sent to a colleague."""

import base64
import datetime
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import pandas as pd

from busfast import __version__
from busfast.csvfile import write_csv
from busfast.data.audit import Audit, count_findings, format_groups
from busfast.data.duplicates import SAME
from busfast.data.images import read_image
from busfast.data.paths import locate, read_source_folders
from busfast.errors import UserError
from busfast.files import atomic, make_folder
from busfast.text import counted

MOST_PAIRS = 300  # of each kind; a page of some 10 MB
MOST_ROWS = 100
HEIGHT = 200  # of a picture, pixels
MARK = "<!-- written by busfast audit -->"
NOTES = {
    "identical": "Of those with different labels at least one label is wrong.",
    "near-duplicate": f"Similarity is how far their fine detail agrees after one is laid on the other; {SAME} or more "
                      "counts. If two are different pictures after all, write <b>different</b> into their row's column "
                      "<b>decision</b> in audit.csv; train, split and the next audit heed it.",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 }
td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: left }
td.n { text-align: right } .pairs { display: flex; flex-wrap: wrap; gap: 14px }
.pair { border: 1px solid #ccc; padding: 8px; width: 520px; font-size: 13px; overflow-wrap: anywhere }
.pair.conflict { border: 3px solid #b30000 } .two { display: flex; gap: 8px } .two div { flex: 1 }
.two img { max-width: 250px; height: auto } .warn { color: #b30000; font-weight: 600 } .note { color: #555 }
"""


def write_audit(audit: Audit, folder: Path, leaks: tuple[str, pd.DataFrame] | None = None) -> list[Path]:
    """Writes audit.csv, a row a finding, and audit.html; those of an earlier audit are replaced.

    Args:
        audit: what was found.
        folder: is made if it is not there.
        leaks: the name of a split that was looked at and its leaks; they are rows of leaks.csv, too.

    Returns:
        The files.

    Raises:
        UserError: they cannot be written, or the folder has an audit.html that is not busfast's.
    """
    table, page, leaking = (folder / name for name in ("audit.csv", "audit.html", "leaks.csv"))
    if page.is_file() and MARK not in page.read_text(encoding="utf-8", errors="replace")[:200]:
        raise UserError(f"{page} was not written by busfast and is not overwritten. Name another folder: --out=FOLDER.")
    make_folder(folder)
    write_csv(audit.findings, table)
    _write_page(audit, page, leaks)
    if leaks is None:
        return [table, page]
    write_csv(leaks[1], leaking)
    return [table, page, leaking]


def _write_page(audit: Audit, path: Path, leaks: tuple[str, pd.DataFrame] | None) -> None:
    title = f"Audit of {audit.table.attrs['root']}"
    parts = [f"<h1>{escape(title)}</h1>", _head(audit), "<h2>Findings</h2>", _findings(audit)]
    if leaks is not None:
        parts.append(_leaks(*leaks))
    parts += [_confounding(audit), _frame("Sizes", audit.sizes), _flags(audit)]
    for kind, what in (("identical", "Identical images"), ("near-duplicate", "Near-duplicates")):
        parts.append(_pairs(audit, kind, what))
    rest = audit.findings[audit.findings["other"] == ""]
    for finding, rows in rest.groupby("finding", sort=False):
        parts.append(_frame(f"{finding.capitalize()} ({len(rows)})", rows[["image", "detail"]].head(MOST_ROWS),
                            f"The first {MOST_ROWS}; audit.csv has all." if len(rows) > MOST_ROWS else ""))
    with atomic(path) as file:
        file.write(f"<!DOCTYPE html>\n{MARK}\n<html lang='en'><head><meta charset='utf-8'>"
                   f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts)
                   + "\n</body></html>\n")


def _head(audit: Audit) -> str:
    table = audit.table
    unknown = int((table["patient"] == "").sum())
    words = [f"{len(table)} images", f"{table['center'].replace('', None).nunique()} centers",
             f"{table['patient'].replace('', None).nunique()} patient ids" + (f" ({unknown} images without)" if unknown
                                                                             else ""), format_groups(table)]
    today = datetime.date.today().isoformat()
    return (f"<p>{escape('; '.join(words))}.</p><p class='note'>busfast {__version__}, {today}. "
            "Images of patients: keep this page where they may be kept. For research, not a medical device.</p>")


def _findings(audit: Audit) -> str:
    lines = count_findings(audit.findings)
    if not lines:
        return "<p>Nothing was found.</p>"
    return "<table>" + "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in lines
                               ) + "</table><p>Each is a row of audit.csv.</p>"


def _leaks(name: str, leaks: pd.DataFrame) -> str:
    if leaks.empty:
        return f"<h2>Leaks of {escape(name)}</h2><p>Nothing known lies on two sides of this split.</p>"
    return _frame(f"Leaks of {name} ({len(leaks)})", leaks.head(MOST_ROWS), "Each lies on two sides of the split.")


def _confounding(audit: Audit) -> str:
    if audit.confounding.empty:
        return "<h2>Centers and classes</h2><p>The table names no centers.</p>"
    text = format_confounding(audit)
    return _frame("Centers and classes", audit.confounding.reset_index(), text)


def format_audit(audit: Audit) -> str:
    """Returns the findings of an audit, counted, and its tables, as lines for the terminal."""
    counts = count_findings(audit.findings)
    width = max((len(name) for name, _ in counts), default=0)
    lines = [f"{name:{width}}  {text}" for name, text in counts] or ["nothing was found"]
    for frame in (audit.confounding.reset_index(), audit.sizes, audit.flags):
        if len(frame):
            lines += frame.to_string(index=False).splitlines()
    return "\n".join(f"  {line}" for line in [*lines, format_confounding(audit)])


def format_confounding(audit: Audit) -> str:
    """Says in words how well the center predicts the class."""
    if math.isnan(audit.cramers_v):
        return "There is only one center, or only one class, so the center cannot predict the class."
    return (f"Cramer's V is {audit.cramers_v:.2f} (0: the center says nothing of the class; 1: it tells it). Guessing "
            f"the commonest class of the center is right for {100 * audit.by_center:.0f}% of images, guessing the "
            f"commonest class of all for {100 * audit.by_class:.0f}%: a model can gain that much by recognising the "
            "center.")


def _flags(audit: Audit) -> str:
    return "" if audit.flags.empty else _frame(
        "Burned-in marks", audit.flags, "Share of the images of each class that the source flags. Where it differs "
        "between classes, a model can learn the marks instead of the lesion.")


def _pairs(audit: Audit, kind: str, what: str) -> str:
    rows = audit.findings[(audit.findings["finding"] == kind) & (audit.findings["decision"] != "different")]
    if rows.empty:
        return ""
    shown = rows.head(MOST_PAIRS)
    root = audit.table.attrs["root"]
    places = read_source_folders(root)
    names = list(dict.fromkeys([*shown["image"], *shown["other"]]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = dict(zip(names, pool.map(lambda name: _picture(locate(root, name, places)), names), strict=True))
    cards = []
    for row in shown.itertuples():
        details = (row.detail.split(" | ") + ["", ""])[:2]
        two = "".join(f"<div><img alt='' src='{pictures[name]}'><br>{escape(name)}<br>{escape(detail)}</div>"
                      for name, detail in zip((row.image, row.other), details, strict=True))
        differs = f"<div class='warn'>different: {escape(row.differs)}</div>" if row.differs else ""
        mirrored = ", mirrored" if row.detail.endswith("| mirrored") else ""
        cards.append(f"<div class='pair{' conflict' if 'label' in row.differs else ''}'>similarity {row.similarity:.2f}"
                     f"{mirrored}{differs}<div class='two'>{two}</div></div>")
    more = f" The first {MOST_PAIRS} are shown; all are in audit.csv." if len(rows) > MOST_PAIRS else ""
    return (f"<h2>{what} ({counted(len(rows), 'pair')})</h2>"
            f"<p>Each pair stays on one side of a split.{more} {NOTES[kind]}</p>"
            f"<div class='pairs'>{''.join(cards)}</div>")


def _picture(path: Path) -> str:
    """A small copy of an image as a data: URL."""
    image = read_image(path)
    image.thumbnail((250, HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _frame(title: str, frame: pd.DataFrame, text: str = "") -> str:
    if frame.empty:
        return ""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in frame.columns)
    body = "".join("<tr>" + "".join(
        f"<td{' class=n' if isinstance(cell, int | float) else ''}>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in frame.itertuples(index=False))
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table><p>{escape(text)}</p>"
