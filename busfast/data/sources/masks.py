"""Masks that have to be made: several joined into one, outlines drawn."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from busfast.data.images import open_image
from busfast.errors import UserError

FARTHEST = 1e6  # pixels; a point beyond is no place in an image


class Outline(NamedTuple):
    """The lesions in an image.

    Attributes:
        size: width and height of the image in pixels.
        shapes: corners (x, y) of each lesion, in pixels.
    """

    size: tuple[int, int]
    shapes: list[list[tuple[float, float]]]


def image_size(path: str | Path) -> tuple[int, int]:
    """Returns width and height from the header of an image file, without decoding it.

    Raises:
        UserError: it is no image, or of more pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        with open_image(path) as image:
            return image.size
    except ValueError as error:
        raise UserError(f"{path}: {error}. It is broken, or has to be made smaller.") from error
    except Exception as error:  # a broken file raises nearly anything
        raise UserError(f"{path} cannot be opened as an image ({type(error).__name__}). Replace it, or move it "
                        "away.") from error


def join_masks(sources: Sequence[Path], target: Path) -> None:
    """Writes one mask of all: 255 where any of them is not black (and not transparent), else 0; 8-bit gray PNG.

    Raises:
        UserError: a mask cannot be read, or they are of different sizes.
    """
    joined = None
    for source in sources:
        image_size(source)
        try:
            with open_image(source) as image:
                pixels = np.asarray(image.convert("RGBA"))
        except Exception as error:
            raise UserError(f"{source} cannot be read as a mask ({type(error).__name__}: {error}). Replace the file. "
                            "Nothing was written.") from error
        mask = pixels[..., :3].any(axis=-1) & (pixels[..., 3] > 0)
        if joined is not None and joined.shape != mask.shape:
            raise UserError(f"{source} has {mask.shape[1]} x {mask.shape[0]} pixels, but {sources[0]} has "
                            f"{joined.shape[1]} x {joined.shape[0]}: masks of one image must be of one size. "
                            "Nothing was written.")
        joined = mask if joined is None else joined | mask
    Image.fromarray(joined.astype(np.uint8) * 255).save(target, format="PNG")


def read_outline(path: Path) -> Outline:
    """Reads the annotation of an image, as LabelMe writes it.

    Rectangles are taken only where there is no polygon: beside polygons they are the boxes of the same lesions.

    Raises:
        UserError: the file is no such annotation, or its numbers cannot be.
    """
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
        raise UserError(f"{path} is no annotation as LabelMe writes it ({type(error).__name__}: {error}). "
                        "Download it again, or move it away.") from error
    chosen = shapes["polygon"] or shapes["rectangle"]
    if not all(math.isfinite(number) and abs(number) < FARTHEST for shape in chosen for point in shape
               for number in point):
        raise UserError(f"{path}: a point lies nowhere near the image. Mend the annotation, or move it away.")
    if min(size) < 1 or (Image.MAX_IMAGE_PIXELS and size[0] * size[1] > Image.MAX_IMAGE_PIXELS):
        raise UserError(f"{path} says that its image has {size[0]} x {size[1]} pixels; more than 0 and no more than "
                        f"{Image.MAX_IMAGE_PIXELS:,} in all can be drawn. Mend the annotation, or move it away.")
    return Outline(size, chosen)


def draw_outline(source: Path, target: Path) -> None:
    """Writes the lesions of a LabelMe annotation as a mask: 255 inside, else 0; 8-bit gray PNG.

    Raises:
        UserError: see `read_outline`.
    """
    size, shapes = read_outline(source)
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        draw.polygon(shape, fill=255)
    image.save(target, format="PNG")
