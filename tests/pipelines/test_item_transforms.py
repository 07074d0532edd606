"""fastai's view of a single item is the reference image and the label, whatever the item is.

Covers busfast/pipelines/__init__.py, too.
"""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast import pipelines
from busfast.data.images import read_image, resize_image
from busfast.pipelines.item_transforms import item_label, item_transforms


@pytest.mark.parametrize("kind", ["row", "path", "bytes", "image", "array"])
def test_every_kind_of_item_gives_the_reference_image(odd_images, kind):
    path = odd_images["rgb.png"]
    item = {"row": pd.Series({"image": str(path), "label": "benign"}), "path": path, "bytes": path.read_bytes(),
            "image": Image.open(path), "array": np.asarray(Image.open(path))}[kind]
    open_item, _ = item_transforms(40, "pad", "gray")
    image = open_item(item)
    assert np.array_equal(np.asarray(image), np.asarray(resize_image(read_image(path), 40, "pad", "gray")))


def test_the_label_is_that_of_the_row():
    assert item_label(pd.Series({"image": "a.png", "label": "benign"})) == "benign"


def test_every_public_name_of_the_pipelines_can_be_imported():
    places = {name: f"busfast.pipelines{place}" if place.startswith(".") else place
              for name, place in pipelines.MODULES.items()}
    assert {name: getattr(pipelines, name).__module__ for name in pipelines.__all__} == places
