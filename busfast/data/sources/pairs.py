"""Images and masks that lie side by side: NAME.png with NAME_mask.png, NAME_mask_1.png, ..."""

import re
from pathlib import PurePosixPath

MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE | re.DOTALL)


def pair_masks(names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Finds the masks of each image.

    Args:
        names: paths of images and masks, with /.

    Returns:
        Image -> its masks, in the order of `names`; and masks whose image is not there.
    """
    by_stem: dict[tuple[str, str], list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        by_stem.setdefault((str(path.parent), path.stem), []).append(name)
    owner, orphans = {}, []
    for name in names:
        path = PurePosixPath(name)
        match = MASK.fullmatch(path.stem)
        if match and (str(path.parent), match["image"]) in by_stem:
            owner[name] = by_stem[str(path.parent), match["image"]][0]
        elif match:
            orphans.append(name)
    others = {*owner, *orphans}
    masks: dict[str, list[str]] = {name: [] for name in names if name not in others}
    for name, image in owner.items():
        if image in masks:  # else the "image" is a mask, too: NAME_mask_mask.png
            masks[image].append(name)
    return {image: tuple(found) for image, found in masks.items()}, orphans


def cell(masks: tuple[str, ...]) -> str | tuple[str, ...]:
    """The cell of a table for the masks of an image: "", one path, or several that are to be joined."""
    return masks if len(masks) > 1 else "".join(masks)
