"""fastai's transforms of a single item: a row, a path or pixels -> a resized image, and a row -> its label.

An exported learner carries these functions and those of `busfast.data.images` with it (by value, through cloudpickle),
so that it loads without busfast. So this file imports nothing else of busfast.
"""

import sys
from functools import partial
from typing import Any

import cloudpickle
import torch
from fastai.vision.core import PILImage

from busfast.data import images


def open_item(item: Any, size: int | tuple[int, int], resize: str, channels: str) -> PILImage:
    """Reads and resizes an image: `item` is a row with a column `image`, or what `to_source` takes."""
    if hasattr(item, "index") and hasattr(item, "iloc"):
        item = item["image"]
    return PILImage.create(images.resize_image(images.read_image(to_source(item)), size, resize, channels))


def to_source(item: Any) -> Any:
    """Returns a tensor, (C, H, W), uint8 or floats in 0 to 1, as an array; anything else as it is."""
    if not isinstance(item, torch.Tensor):
        return item
    pixels = item.detach().cpu().as_subclass(torch.Tensor)
    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255).round().clip(0, 255).byte()
    return pixels.movedim(0, -1).squeeze(-1).numpy()


def item_label(row: Any) -> str:
    """Returns the label of a row."""
    return row["label"]


def item_labels(row: Any, delim: str) -> list[str]:
    """Returns the labels of a row that has several."""
    return [one for one in row["label"].split(delim) if one]


def item_transforms(size: int | tuple[int, int], resize: str, channels: str, label_delim: str = "") -> list:
    """Returns the two functions for fastai's Datasets: item -> image, item -> label, or labels."""
    return [partial(open_item, size=size, resize=resize, channels=channels),
            partial(item_labels, delim=label_delim) if label_delim else item_label]


for _module in (images, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(_module)
