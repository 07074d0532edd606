"""A file that is named like an image with a word for masks added, or lies in a folder of masks, is no image."""

import numpy as np
import pytest
from PIL import Image

from busfast.data.sources import read_source
from busfast.data.sources.pairs import pair_masks
from data.layouts import image, mask, refusal, rows

BOX = (2, 2, 7, 6)


def test_a_mask_of_a_mask_is_no_image():
    assert pair_masks(["a.png", "a_mask.png", "a_mask_1.png", "b_mask.png", "k.png", "k_mask_mask.png"]) == (
        {"a.png": ("a_mask.png", "a_mask_1.png"), "k.png": ("k_mask_mask.png",)}, ["b_mask.png"], [])


@pytest.mark.parametrize("name", [
    "a/x_mask.png", "a/x_Segmentation.png", "a/x-mask.tif", "a/x (mask).png", "a/x.mask.png", "a/x_seg_2.bmp",
    "a/x_left_lung_mask.png", "a/mask_x.png", "a/seg-x.png", "a/x_tumor.png", "a/x_tumor1.png", "a/x_GroundTruth.png",
    "a/x_lesion.png", "a/x_label.png", "a/x_roi.png", "a/X_MASK.PNG", "masks/a/x.png", "a/masks/x.png",
    "Ground Truth/a/x.png", "annotations/x.png", "a/lung masks/x_1.png", "ISIC_GroundTruth/x_segmentation.png",
    "a/x_other1.png", "a/x.bmp", "a/x_Befund.png"])
@pytest.mark.parametrize("folder", ["a", "images/a", "a/images"])
def test_masks_are_known_by_name_folder_or_pixels(name, folder, tmp_path):
    for number in range(3):
        image(tmp_path / folder / f"y{number}.jpg")
    image(tmp_path / folder / "x.jpg")
    image(tmp_path / "b" / "z.jpg")
    name = name.replace("a/", f"{folder}/") if name.startswith("a/") and "masks" not in name else name
    mask(tmp_path / name, BOX)
    table = read_source("folder", tmp_path)
    assert len(table) == 5 and table.rows["label"].value_counts().to_dict() == {"a": 4, "b": 1}
    assert table.rows.set_index("image").loc[f"{folder}/x.jpg", "mask"] == name
    assert "masks are no images: 1 file, of 1 image" in "; ".join(table.notes)


@pytest.mark.parametrize("name", ["x (2).png", "x_2.png", "x_flip.png", "xmask.png", "x copy.png"])
def test_other_additions_to_a_name_make_no_mask(name, tmp_path):
    for number in range(3):
        image(tmp_path / "a" / f"y{number}.png")
    image(tmp_path / "a" / "x.png")
    image(tmp_path / "a" / name)
    table = read_source("folder", tmp_path)
    assert len(table) == 5
    assert any("something added are taken for images" in note for note in table.notes) == (name in (
        "x_flip.png", "x copy.png"))


@pytest.mark.parametrize("names", [
    ("{0}/{1}_image.png", "{0}/{1}_mask.png"), ("{0}/{1}_img.png", "{0}/{1}_tumor.png"),
    ("{0}/image_{1}.png", "{0}/mask_{1}.png"), ("images/{0}/img_{0}{1}.png", "masks/mask_{0}{1}.png"),
    ("{0}/{1}.png", "{0}_mask/{1}.png"), ("{0}/{1}.png", "{0} masks/{1}_mask.png")])
def test_images_that_are_called_so_and_folders_beside_each_class_are_paired(names, tmp_path):
    for label in "ab":
        for number in range(3):
            image(tmp_path / names[0].format(label, number))
            mask(tmp_path / names[1].format(label, number), BOX)
    table = read_source("folder", tmp_path)
    assert rows(table, "image", "label", "mask") == [
        [names[0].format(label, number), label, names[1].format(label, number)] for label in "ab"
        for number in range(3)]


def test_a_folder_of_drawn_images_that_is_called_after_masks_is_no_class(tmp_path):
    for label in "ab":
        image(tmp_path / label / "1.png")
        mask(tmp_path / f"expert {label}_mask" / "other.png", BOX)
    assert read_source("folder", tmp_path).rows["label"].tolist() == ["a", "b"]


def test_a_class_of_images_that_look_like_masks_is_warned_of(tmp_path):
    for number in range(3):
        image(tmp_path / "a" / f"{number}.png")
        mask(tmp_path / "b" / f"{number}.png", BOX)
    table = read_source("folder", tmp_path)
    assert len(table) == 6
    assert [note for note in table.notes if "warning" in note] == [
        "warning: all images of the class 'b' that were looked at are of few colors, such as 'b/0.png': masks?"]


def test_marked_copies_of_images_are_left_out_and_said(tmp_path):
    for label in "ab":
        image(tmp_path / label / "x.png")
        image(tmp_path / label / "x_annotated.png")
        image(tmp_path / label / "annotations" / "x.png")
    table = read_source("folder", tmp_path)
    assert table.rows["image"].tolist() == ["a/x.png", "b/x.png"] and set(table.rows["mask"]) == {""}
    assert "4 files named like masks of images are pictures themselves" in "; ".join(table.notes)


def test_a_mask_saved_as_jpeg_is_known_by_its_pixels(tmp_path):
    for name in ("x", "y"):
        image(tmp_path / "a" / f"{name}.png", (160, 160))
        ellipse = np.hypot(*(np.mgrid[:160, :160] - 80)) < 40
        Image.fromarray(ellipse.astype(np.uint8) * 255).save(tmp_path / "a" / f"{name}_drawing.jpg")
    assert len(read_source("folder", tmp_path)) == 2


def test_among_drawn_images_only_a_word_for_masks_makes_one(tmp_path):
    for name in ("x", "x_rle", "x_seg", "y"):
        mask(tmp_path / "a" / f"{name}.png", BOX)
    table = read_source("folder", tmp_path)
    assert rows(table, "image", "mask") == [["a/x.png", "a/x_seg.png"], ["a/x_rle.png", ""], ["a/y.png", ""]]


def test_classes_that_are_called_after_masks_stay_classes(tmp_path):
    for label in ("with_mask", "without_mask"):
        image(tmp_path / label / "1.jpg")
    assert read_source("folder", tmp_path).rows["label"].tolist() == ["with_mask", "without_mask"]


def test_masks_without_their_images_are_left_out(tmp_path):
    for name in ("benign/a.png", "malignant/b.png"):
        image(tmp_path / name)
    for name in ("benign/masks/a.png", "benign/masks/gone.png", "malignant/gone_segmentation.png", "masks/3.png"):
        mask(tmp_path / name, BOX)
    table = read_source("folder", tmp_path)
    assert rows(table, "image", "mask") == [["benign/a.png", "benign/masks/a.png"], ["malignant/b.png", ""]]
    assert "3 files are named like masks of missing images" in "; ".join(table.notes)


def test_images_and_masks_without_classes_are_refused(tmp_path):
    image(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a.png", BOX)
    assert "the folder 'images' is not named like a class" in refusal("folder", tmp_path)
