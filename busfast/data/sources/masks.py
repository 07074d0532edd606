"""Makes masks: joins several into one, draws outlines."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from busfast.data.images import open_image, pixel_limit, read_image
from busfast.errors import UserError

FARTHEST = 1e6  # pixels; no image reaches this far
DRAWN_COLORS = 8  # at most, in a mask
EDGE = 32  # gray values that JPEG may make of black or white


class Outline(NamedTuple):
    """The lesions in an image, in pixels."""

    size: tuple[int, int]  # width and height of the image
    shapes: list[list[tuple[float, float]]]  # corners (x, y) of each lesion


def image_size(path: str | Path) -> tuple[int, int]:
    """Returns width and height from the header of an image file; UserError if it is not one, or too large."""
    try:
        with open_image(path) as image:
            return image.size
    except ValueError as error:
        raise UserError(f"{path}: {error}. Replace it, or make it smaller.") from error
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{path} cannot be opened as an image ({type(error).__name__}). Replace or remove "
                        "it.") from error


def join_masks(sources: Sequence[Path], target: Path) -> None:
    """Joins masks of one size: 255 where any is neither black nor transparent, else 0; writes 8-bit gray PNG."""
    joined = None
    for source in sources:
        try:
            with open_image(source) as image:
                pixels = np.asarray(image.convert("RGBA"))
        except Exception as error:
            raise UserError(f"{source} cannot be read as a mask ({type(error).__name__}: {error}). Replace the file. "
                            "Nothing was written.") from error
        mask = pixels[..., :3].any(axis=-1) & (pixels[..., 3] > 0)
        if joined is not None and joined.shape != mask.shape:
            raise UserError(f"{source} has {mask.shape[1]} x {mask.shape[0]} pixels, but {sources[0]} has "
                            f"{joined.shape[1]} x {joined.shape[0]}: all masks of an image must have one size. "
                            "Nothing was written.")
        joined = mask if joined is None else joined | mask
    Image.fromarray(joined.astype(np.uint8) * 255).save(target, format="PNG")


def read_outline(path: Path) -> Outline:
    """Reads a LabelMe annotation. Rectangles count only without polygons, of which they are the bounding boxes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size = int(content["imageWidth"]), int(content["imageHeight"])
        shapes = {"polygon": [], "rectangle": []}
        for shape in content["shapes"]:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            if shape["shape_type"] == "polygon" and len(points) > 2:
                shapes["polygon"].append(points)
            elif shape["shape_type"] == "rectangle" and len(points) == 2:
                (left, top), (right, bottom) = points
                shapes["rectangle"].append([(left, top), (right, top), (right, bottom), (left, bottom)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is not a LabelMe annotation ({type(error).__name__}: {error}). "
                        "Replace or remove it.") from error
    chosen = shapes["polygon"] or shapes["rectangle"]
    if not all(math.isfinite(number) and abs(number) < FARTHEST for shape in chosen for point in shape
               for number in point):
        raise UserError(f"{path}: a point lies far outside the image. Fix or remove the annotation.")
    limit = pixel_limit() or math.inf
    if min(size) < 1 or size[0] * size[1] > limit:
        raise UserError(f"{path} claims an image of {size[0]} x {size[1]} pixels; allowed are 1 to "
                        f"{limit:,} in total. Fix or remove the annotation.")
    return Outline(size, chosen)


def draw_outline(source: Path, target: Path) -> None:
    """Draws the lesions of a LabelMe annotation as a mask: 255 inside, else 0; writes 8-bit gray PNG."""
    size, shapes = read_outline(source)
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        draw.polygon(shape, fill=255)
    image.save(target, format="PNG")


def is_drawn(path: Path) -> bool:
    """Returns whether an image looks drawn, as a mask is: of few colors, or (a JPEG) all but black and white."""
    try:
        image = read_image(path)
        if image.getcolors(DRAWN_COLORS):
            return True
        counts = image.convert("L").histogram()
    except Exception:  # a damaged file raises nearly anything
        return False
    return sum(counts[:EDGE]) + sum(counts[-EDGE:]) > 0.95 * sum(counts)
