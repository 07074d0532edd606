"""Masks that busfast makes: joined ones, and outlines that are drawn."""

import numpy as np
import pytest
from PIL import Image

from busfast.data.sources.masks import draw_outline, image_size, join_masks
from busfast.errors import UserError
from data.layouts import annotate, huge_png, mask


def test_joined_masks_are_white_where_any_of_them_is_not_black(tmp_path):
    green = Image.new("RGBA", (12, 9))
    green.paste((0, 255, 0, 255), (6, 4, 9, 8))
    green.save(tmp_path / "b.png")
    join_masks([mask(tmp_path / "a.png", (0, 0, 3, 3)), tmp_path / "b.png"], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as joined:
        assert joined.mode == "L"
        expected = np.zeros((9, 12), dtype=np.uint8)
        expected[0:3, 0:3] = expected[4:8, 6:9] = 255
        assert np.array_equal(np.asarray(joined), expected)


def test_masks_of_different_sizes_are_not_joined(tmp_path):
    masks = [mask(tmp_path / "a.png", (0, 0, 3, 3)), mask(tmp_path / "b.png", (0, 0, 3, 3), size=(9, 12))]
    with pytest.raises(UserError, match="one size"):
        join_masks(masks, tmp_path / "out.png")


@pytest.mark.parametrize(("shapes", "box"), [
    ([("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])], (2, 2, 6, 6)),
    ([("rectangle", [[0, 0], [11, 8]]), ("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])], (2, 2, 6, 6)),
    ([("rectangle", [[8, 6], [4, 3]])], (4, 3, 8, 6))])
def test_polygons_are_drawn_and_rectangles_only_where_there_is_none(shapes, box, tmp_path):
    draw_outline(annotate(tmp_path / "a.json", shapes), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        pixels = np.asarray(drawn)
    left, top, right, bottom = box  # corners are part of the shape
    assert pixels[top:bottom + 1, left:right + 1].min() == 255
    assert (pixels > 0).sum() == (right - left + 1) * (bottom - top + 1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shapes": []}', "[" * 100_000,
                                     '{"imageWidth": 60000, "imageHeight": 60000, "shapes": []}',
                                     '{"imageWidth": 9, "imageHeight": 9, "shapes": [{"shape_type": "polygon", '
                                     '"points": [[NaN, 1], [2, 2], [3, 3]]}]}'])
def test_an_annotation_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json"):
        draw_outline(tmp_path / "a.json", tmp_path / "out.png")


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "huge.png").write_bytes(huge_png())
    with pytest.raises(UserError, match="too many pixels to decode"):
        image_size(tmp_path / "huge.png")
