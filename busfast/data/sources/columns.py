"""Which column of a user's table holds what: by name, by what others call it, or as the user says."""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

from busfast.csvfile import Rows
from busfast.data.external_splits import NAMES
from busfast.data.labels import plain
from busfast.data.sources.common import Options
from busfast.data.split import UNUSED
from busfast.data.table import OPTIONAL, REQUIRED
from busfast.errors import UserError, choose, suggest
from busfast.text import listed

# busfast's name -> what others call the column, plain (see `plain`), most telling first.
USUAL = {
    "image": ("image", "imagepath", "filepath", "path", "filename", "imagefilename", "file", "fname", "fn", "imageid",
              "img", "imagename", "imageindex", "idcode", "name", "id"),
    "label": ("label", "labels", "class", "classname", "classid", "diagnosis", "dx", "target", "category",
              "classification", "pathology", "finding", "findings", "findinglabels", "species"),
    "patient": ("patient", "patientid", "pid", "case", "caseid", "subject", "subjectid", "personid"),
    "center": ("center", "centre", "hospital", "site", "institution", "clinic"),
    "original_split": ("originalsplit", "split", "part", "subset", "fold", "isvalid", "isval"),
}
PARTS = {name: part for name, part in NAMES.items() if part != UNUSED} | {"": ""}
FLAGS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
IS_VALID = {text: "valid" if flag else "train" for text, flag in FLAGS.items()}


def join_one_hot(sheet: Rows, file: Path, options: Options) -> tuple[Rows, list[str]]:
    """Adds a column of labels to a table that has a column of 0 and 1 for each class instead (or as --columns=label=A+B
    says); returns it, and notes."""
    header, given = sheet.header, (options.columns or {}).get("label", "")
    if given and ("+" not in given or given in header):
        return sheet, []
    if given:
        ones = [_position(title, "label", header, file) for title in given.split("+")]
        for line, cells in sheet.rows:
            if odd := [index for index in ones if cells[index].lower() not in FLAGS]:
                raise UserError(f"{file}, row {line}, column {header[odd[0]]}: '{cells[odd[0]]}' is neither 0 nor 1. "
                                "Correct it, or name other columns: --columns=label=A+B+C.")
    elif usual_column("label", header) is not None:
        return sheet, []
    else:
        usual = {usual_column(name, header) for name in (*USUAL, *OPTIONAL)}
        ones = [index for index, title in enumerate(header) if title not in usual
                and {cells[index].lower() for _, cells in sheet.rows} <= {*FLAGS}]
        if len(ones) < 2:
            return sheet, []
    titles, rows = [header[index] for index in ones], []
    for line, cells in sheet.rows:
        labels = [header[index] for index in ones if FLAGS[cells[index].lower()]]
        if len(labels) != 1 and not options.label_delim:
            which = f"{' and '.join(labels) or 'none'} {'are' if len(labels) > 1 else 'is'} 1"
            columns = quote(f"label={'+'.join(titles[:3])}")
            raise UserError(f"{file}, row {line}: of the columns {', '.join(titles)}, which hold 0 and 1, {which}. "
                            f"Name those that are classes: --columns={columns}. If an image may have several labels, "
                            "or none: train --label_delim=';'. Else add a column label.")
        rows.append((line, [*cells, (options.label_delim or "").join(labels)]))
    return Rows([*header, given or "label"], rows, sheet.notes), \
        [f"labels from the columns {', '.join(titles)}, of 0 and 1"]


def _position(title: str, name: str, header: list[str], file: Path) -> int:
    """Returns the position of the column that the user gives as `name`."""
    if title not in header:
        raise UserError(f"{file}, row 1: there is no column '{title}' (given as {name})."
                        f"{suggest(title, header, cutoff=0.4)} Found: {', '.join(header)}.")
    return header.index(title)


def name_columns(header: list[str], file: Path, options: Options) -> tuple[list[str], list[str]]:
    """Returns busfast's name of each column, and notes."""
    ours: dict[str, int] = {}  # busfast's name -> index of the column
    for name, title in (options.columns or {}).items():
        choose("column of busfast", name, (*REQUIRED, *OPTIONAL, "group", "original_split"))
        ours[name] = _position(title, name, header, file)
    if len(set(ours.values())) < len(ours):
        raise UserError(f"--columns gives one column of {file} two names: {dict(options.columns)}.")
    for name in (*REQUIRED, *OPTIONAL):
        titles = [title for title in header if title.lower() == name]
        if name not in ours and titles and header.index(titles[0]) not in ours.values():
            if len(titles) > 1 and name not in titles:
                raise UserError(f"{file}, row 1: {' and '.join(titles)} could both be {name}. Choose one: "
                                f"--columns={name}={titles[0]}")
            ours[name] = header.index(name if name in titles else titles[0])
    for name in USUAL:
        title = usual_column(name, [title for title in header if header.index(title) not in ours.values()])
        if name not in ours and title is not None:
            ours[name] = header.index(title)
    if missing := [name for name in REQUIRED if name not in ours]:
        columns = quote(",".join(f"{name}={header[ours[name]] if name in ours else 'COLUMN'}" for name in REQUIRED))
        raise UserError(f"{file}, row 1: no column looks like {' or '.join(map(repr, missing))} (found: "
                        f"{', '.join(header)}; usual names: {', '.join(USUAL[missing[0]])}). Rename the column, or "
                        f"prepare the images: python -m busfast prepare --source=csv --path={quote(str(file))} "
                        f"--columns={columns} (a column of 0 and 1 for each class: label=A+B+C; no row of column "
                        "names: image=1,label=2).")
    names = list(header)
    for index, title in enumerate(names):
        if title in ours and ours[title] != index:  # such as a column 'label', if --columns names another as label
            names[index] = f"original_{title}"
            while names[index] in header:
                names[index] = f"original_{names[index]}"
    for name, index in ours.items():
        names[index] = name
    renamed = [f"{title} as {name}" for title, name in zip(header, names, strict=True) if title != name]
    kept = [name for index, name in enumerate(names) if index not in ours.values()]
    notes = [f"columns read: {', '.join(renamed)}"] if renamed else []
    return names, [*notes, f"other columns, kept: {', '.join(kept)}"] if kept else notes


def usual_column(name: str, titles: Iterable[Any]) -> Any:
    """Returns which of some columns is called what others call busfast's column `name`, most telling first; or None."""
    return next((title for usual in USUAL.get(name, (name,)) for title in titles if plain(str(title)) == usual), None)


def read_parts(sheet: Rows, names: list[str], file: Path, options: Options) -> tuple[dict[str, str], list[str]]:
    """Returns what the values of the column original_split mean, in lower case, and notes; {} if there is none. A
    column that only looks like one gets another name."""
    if "original_split" not in names:
        return {}, []
    index = names.index("original_split")
    title, values = sheet.header[index], sorted({cells[index].lower() for _, cells in sheet.rows})
    if plain(title) in ("isvalid", "isval") and {*values} <= {*IS_VALID}:
        meant = IS_VALID
    elif {*values} <= {*PARTS}:
        meant = PARTS
    else:
        shown = f"holds {listed(values)}, not train, valid and test"
        if "original_split" in (options.columns or {}):
            raise UserError(f"{file}, column {title}: it {shown}. Write these, or name another column.")
        names[index] = f"original_{title}" if plain(title) not in ("split", "originalsplit") else f"{title}_kept"
        return {}, [f"the column {title} {shown}: kept as {names[index]}, and no split uses it"]
    return meant, [f"the parts of column {title} are in original_split, which --split=given takes"]
