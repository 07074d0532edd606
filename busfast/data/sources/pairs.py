"""Images and masks side by side: NAME.png with NAME_mask.png, NAME_mask_1.png, ..."""

import re
from pathlib import PurePosixPath

MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE | re.DOTALL)


def pair_masks(names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Returns image -> its masks, in the order of `names` (of images and masks), and the masks without an image."""
    by_stem: dict[tuple[str, str], str] = {}
    for name in names:
        path = PurePosixPath(name)
        by_stem.setdefault((str(path.parent), path.stem), name)
    image_of, orphans = {}, []
    for name in names:
        path = PurePosixPath(name)
        match = MASK.fullmatch(path.stem)
        if match and (str(path.parent), match["image"]) in by_stem:
            image_of[name] = by_stem[str(path.parent), match["image"]]
        elif match:
            orphans.append(name)
    all_masks = {*image_of, *orphans}
    masks: dict[str, list[str]] = {name: [] for name in names if name not in all_masks}
    for name, image in image_of.items():
        if image in masks:  # otherwise the "image" is itself a mask: NAME_mask_mask.png
            masks[image].append(name)
    return {image: tuple(paths) for image, paths in masks.items()}, orphans


def cell(masks: tuple[str, ...]) -> str | tuple[str, ...]:
    """Returns the cell of a table for the masks of an image: "", one path, or several to be joined."""
    return masks if len(masks) > 1 else "".join(masks)
