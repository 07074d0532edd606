"""The paths of a source's images and masks in the new data folder, and the files to be made there."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from busfast.data.sources.common import SourceTable, paths_of
from busfast.data.sources.dicom_pixels import convert_dicom
from busfast.data.sources.masks import draw_outline, image_size, join_masks, read_outline
from busfast.data.sources.pages import write_page
from busfast.errors import UserError
from busfast.progress import progress

Made = dict[str, Callable[[Path], object]]  # path in the new folder -> function that writes the file


def check_files(table: SourceTable) -> SourceTable:
    """Reads the headers of all images and masks; decodes none. Returns the table without annotations that have no
    outline, with notes on files that cannot be opened and masks of another size; UserError if a mask cannot be made.
    """
    root, rows, notes = table.root, table.rows.copy(), list(table.notes)
    broken, other_size, empty = [], [], 0
    for row in progress(rows.index, "reading headers"):
        image = rows.at[row, "image"]
        size = None if image in table.dicom else _size(root / image, broken)
        for column in table.masks:
            cell = rows.at[row, column]
            if isinstance(cell, tuple):
                sizes = [image_size(root / name) for name in cell]
                if len(set(sizes)) > 1:
                    raise UserError(f"{root}: the masks {', '.join(cell)} are of different sizes ({sizes}), and cannot "
                                    "be joined. Correct or move away the wrong one.")
                mask = sizes[0]
            elif cell.endswith(".json"):
                mask, shapes = read_outline(root / cell)
                if not shapes:
                    rows.at[row, column], mask, empty = "", None, empty + 1
            else:
                mask = _size(root / cell, broken) if cell else None
            if size and mask and size != mask:
                other_size.append(f"'{image}' is {size[0]} x {size[1]}, its mask {mask[0]} x {mask[1]}")
    if empty:
        notes.append(f"{empty} annotations have neither a polygon nor a rectangle: no mask")
    if other_size:
        notes.append(f"{len(other_size)} masks have another size than their image, e.g. {other_size[0]}")
    if broken:
        notes.append(f"{len(broken)} files cannot be read, and stay in the table until you replace them or remove "
                     f"their rows: {broken[0]}")
    return replace(table, rows=rows, notes=tuple(notes))


def _size(path: Path, broken: list[str]) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UserError as error:
        broken.append(str(error))
        return None


def plan(table: SourceTable, name: str, copy: bool) -> tuple[list[dict], Made, dict[str, Path]]:
    """Returns a source's rows in the new folder, the files to be made, and new path -> DICOM file of converted images.
    Paths begin with `name`; with `copy`, images and masks are copied there, otherwise they stay where they are.
    """
    root, rows, linked = table.root, table.rows.to_dict("records"), {}
    order = {file: number for number, file in enumerate(sorted({file for file, _ in table.dicom.values()}), start=1)}
    made: Made = {}

    def point(path: str) -> str:
        if copy:
            made[f"{name}/{path}"] = partial(shutil.copyfile, root / path)
        return f"{name}/{path}"

    for row in rows:
        image = row["image"]
        if image in table.dicom:  # numbered: the file name may be that of a patient
            file, frame = table.dicom[image]
            number = f"{name}_{order[file]:06}"
            new = f"{number}.png" if frame is None else f"{number}_{frame + 1:04}.png"
            if frame is not None:
                row["group"] = row.get("group") or number
            row["image"] = f"images/{new}"
            made[row["image"]] = partial(convert_dicom, root / file, frame=frame)
            linked[row["image"]] = root / file
        elif image in table.pages:
            file, page = table.pages[image]
            new = f"{name}/{file}_{page + 1:04}.png"
            row["group"] = row.get("group") or f"{name}/{file}"
            row["image"] = f"images/{new}"
            made[row["image"]] = partial(write_page, root / file, page=page)
        else:
            row["image"] = point(image)
            new = f"{name}/{image}"
        for column in table.masks:
            cell = row[column]
            if not cell:
                continue
            drawn = not isinstance(cell, tuple) and cell.endswith(".json")
            if not drawn and not isinstance(cell, tuple) and image not in table.dicom:
                row[column] = point(cell)
                continue
            folder = "masks" if column == "mask" else f"masks/{column}"
            target = f"{folder}/{PurePosixPath(new).with_suffix('.png')}"
            if target in made:  # a.png and a.jpg
                target = f"{folder}/{new}.png"
            made[target] = partial(draw_outline, root / cell) if drawn else \
                partial(join_masks, [root / path for path in paths_of(cell)])
            row[column] = target
    return rows, made, linked
