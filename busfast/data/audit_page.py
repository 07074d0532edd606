"""An audit as one page with its images embedded: no script, nothing fetched, so that it can be sent to a colleague."""

import base64
import datetime
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from busfast import __version__
from busfast.csvfile import write_csv
from busfast.data.audit import Audit, count_findings, format_groups
from busfast.data.duplicates import SAME
from busfast.data.images import read_image
from busfast.data.paths import locate, read_source_folders
from busfast.errors import UserError
from busfast.files import atomic, make_folder
from busfast.processes import cores
from busfast.text import counted

MOST_PAIRS = 300  # of each kind: a page of about 10 MB
MOST_ROWS = 100  # of each table
THUMBNAIL = (250, 200)  # largest width and height, pixels
MARK = "<!-- written by busfast audit -->"
KINDS = (("identical", "Identical images"), ("near-duplicate", "Near-duplicates"))


def write_audit(audit: Audit, folder: Path, leaks: tuple[str, pd.DataFrame] | None = None) -> list[Path]:
    """Writes audit.csv and audit.html, and the leaks of a split (its name, leaks) to leaks.csv; returns the files.
    UserError if they cannot be written, or an audit.html is there that busfast did not write.
    """
    table, page, leaks_table = (folder / name for name in ("audit.csv", "audit.html", "leaks.csv"))
    check_page(page)
    make_folder(folder)
    write_csv(audit.findings, table)
    render(page, _page_values(audit, leaks))
    if leaks is None:
        return [table, page]
    write_csv(leaks[1], leaks_table)
    return [table, page, leaks_table]


def check_page(page: Path) -> None:
    """Raises UserError if a page is there that busfast did not write."""
    if page.is_file() and MARK not in page.read_text(encoding="utf-8", errors="replace")[:200]:
        raise UserError(f"{page} was not written by busfast and is not overwritten. Name another folder: --out=FOLDER.")


def render(page: Path, values: dict[str, Any]) -> None:
    """Writes the page that the template of its name makes of some values."""
    templates = Environment(loader=PackageLoader("busfast.data"), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    html = templates.get_template(f"{page.name}.j2").render(
        values | {"mark": MARK, "version": __version__, "date": datetime.date.today().isoformat()})
    with atomic(page) as file:
        file.write(html)


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
    """Returns a text on how well the center predicts the class."""
    if (audit.table["center"] == "").all():
        return "No image names its center, so it is unknown how much the center reveals about the class."
    if math.isnan(audit.cramers_v):
        return "There are no two centers and two classes, so the center cannot predict the class."
    gain = round(100 * audit.by_center) - round(100 * audit.by_class)
    return (f"Cramer's V is {audit.cramers_v:.2f} (0: center and class are independent; 1: the center determines the "
            f"class). Guessing the most common class of the center is right for {100 * audit.by_center:.0f}% of "
            f"images, guessing the most common class overall for {100 * audit.by_class:.0f}%: "
            + (f"a model can gain {counted(gain, 'point')} by recognizing the center." if gain > 0 else
               "a model gains nothing by recognizing the center alone."))


def _page_values(audit: Audit, leaks: tuple[str, pd.DataFrame] | None) -> dict[str, Any]:
    """Returns what the template shows."""
    kinds = [_pairs(audit.findings, kind, title) for kind, title in KINDS]
    kinds = [kind for kind in kinds if kind["pairs"]]
    names = dict.fromkeys(name for kind in kinds for pair in kind["pairs"] for name, _ in pair["images"])
    split, leak_rows = leaks or ("", None)
    single = audit.findings[audit.findings["other"] == ""]
    return {
        "title": f"Audit of {audit.root}", "summary": _summary(audit.table), "findings": count_findings(audit.findings),
        "split": split, "leaks": leak_rows, "confounding": audit.confounding,
        "confounding_text": format_confounding(audit), "sizes": audit.sizes, "flags": audit.flags, "kinds": kinds,
        "pictures": thumbnails(str(audit.root), list(names)), "threshold": SAME, "most_rows": MOST_ROWS,
        "other_findings": [(finding, rows[["image", "detail"]]) for finding, rows in
                           single.groupby("finding", sort=False)],
    }


def _summary(table: pd.DataFrame) -> str:
    unknown = int((table["patient"] == "").sum())
    patients = f"{table['patient'].replace('', None).nunique()} patient ids"
    return "; ".join([f"{len(table)} images", f"{table['center'].replace('', None).nunique()} centers",
                      patients + (f" ({unknown} images without)" if unknown else ""), format_groups(table)])


def _pairs(findings: pd.DataFrame, kind: str, title: str) -> dict[str, Any]:
    """Returns the pairs of one kind, without those that a person found to be different."""
    rows = findings[(findings["finding"] == kind) & (findings["decision"] != "different")]
    pairs = []
    for row in rows.head(MOST_PAIRS).itertuples():
        details = (row.detail.split(" | ") + ["", ""])[:2]
        pairs.append({"similarity": row.similarity, "mirrored": row.detail.endswith("| mirrored"),
                      "differs": row.differs, "images": list(zip((row.image, row.other), details, strict=True))})
    return {"title": title, "count": counted(len(rows), "pair"), "truncated": len(rows) > MOST_PAIRS, "pairs": pairs}


def thumbnails(root: str, names: list[str]) -> dict[str, str]:
    """Returns small versions of images as data: URLs, by name."""
    folders = read_source_folders(root)
    return dict(zip(names, embed_images([locate(root, name, folders) for name in names]), strict=True))


def embed_images(paths: Sequence[Path]) -> list[str]:
    """Returns small versions of images as data: URLs."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(_thumbnail, paths))


def _thumbnail(path: Path) -> str:
    image = read_image(path)
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
