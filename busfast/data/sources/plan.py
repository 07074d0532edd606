"""Where each image and mask of a source will be found from the new folder, and what has to be made for that."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.data.sources.common import paths_of
from busfast.data.sources.dicom_pixels import convert_dicom
from busfast.data.sources.masks import draw_outline, image_size, join_masks, read_outline
from busfast.errors import UserError
from busfast.progress import progress

Made = dict[str, Callable[[Path], object]]  # path in the new folder -> what writes it there


def check_files(table: pd.DataFrame) -> None:
    """Looks at the headers of all images and masks; decodes none. Annotations without an outline leave the table.

    What the user should know goes into `attrs["notes"]`: files that cannot be opened, masks of another size than
    their image.

    Args:
        table: as `make_table` returns it.

    Raises:
        UserError: a mask that has to be made cannot be.
    """
    root, dicom, broken, apart, empty = Path(table.attrs["root"]), set(table.attrs["dicom"]), [], [], 0
    for row in progress(table.index, "looking at headers"):
        image = table.at[row, "image"]
        size = None if image in dicom else _size(root / image, broken)
        for column in table.attrs["masks"]:
            cell = table.at[row, column]
            if isinstance(cell, tuple):
                sizes = [image_size(root / name) for name in cell]
                if len(set(sizes)) > 1:
                    raise UserError(f"{root}: the masks {', '.join(cell)} are of different sizes ({sizes}), and cannot "
                                    "be joined. Mend or move away the wrong one.")
                mask = sizes[0]
            elif cell.endswith(".json"):
                mask, shapes = read_outline(root / cell)
                if not shapes:
                    table.at[row, column], mask, empty = "", None, empty + 1
            else:
                mask = _size(root / cell, broken) if cell else None
            if size and mask and size != mask:
                apart.append(f"'{image}' is {size[0]} x {size[1]}, its mask {mask[0]} x {mask[1]}")
    if empty:
        table.attrs["notes"].append(f"{empty} annotations have neither a polygon nor a rectangle: no mask")
    if apart:
        table.attrs["notes"].append(f"{len(apart)} masks have another size than their image, e.g. {apart[0]}")
    if broken:
        table.attrs["notes"].append(f"{len(broken)} files cannot be used, and stay in the table until you replace them "
                                    f"or remove their rows: {broken[0]}")


def _size(path: Path, broken: list[str]) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UserError as error:
        broken.append(str(error))
        return None


def plan(table: pd.DataFrame, name: str, copy: bool) -> tuple[list[dict], Made, dict[str, Path]]:
    """Says how the table of a source will read in the new folder.

    Args:
        table: as `make_table` returns it.
        name: the first part of the paths of images that stay where they are.
        copy: whether images and masks are copied instead.

    Returns:
        The rows; what has to be made; and new path -> DICOM file of the images that are converted.
    """
    root, dicom = Path(table.attrs["root"]), set(table.attrs["dicom"])
    order = {image: number for number, image in enumerate(sorted(dicom), start=1)}
    rows, linked = table.to_dict("records"), {}
    made: Made = {}
    def point(path: str) -> str:
        if copy:
            made[f"{name}/{path}"] = partial(shutil.copyfile, root / path)
        return f"{name}/{path}"
    for row in rows:
        image = row["image"]
        if image in order:  # under a number: the name may be that of a patient
            row["image"] = f"images/{name}_{order[image]:06}.png"
            made[row["image"]] = partial(convert_dicom, root / image)
            linked[row["image"]] = root / image
            new = PurePosixPath(row["image"]).name
        else:
            row["image"] = point(image)
            new = f"{name}/{image}"
        for column in table.attrs["masks"]:
            cell = row[column]
            if not cell:
                continue
            drawn = not isinstance(cell, tuple) and cell.endswith(".json")
            if not drawn and not isinstance(cell, tuple) and image not in order:
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
