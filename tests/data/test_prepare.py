"""What prepare promises: a data folder that can be read, of sources that stay as they are; or a clear word, and
nothing changed.

Covers busfast/data/prepare.py, busfast/data/sources/plan.py and busfast/data/paths.py.
"""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busfast.csvfile import read_rows
from busfast.data import prepare as module
from busfast.data.paths import SOURCES_FILE
from busfast.data.prepare import prepare
from busfast.data.table import read_table
from busfast.errors import UserError

DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
originals = pytest.mark.skipif(not (DATA / "layouts").is_dir(),
                               reason=f"no original layouts: {DATA / 'layouts'} (BUSFAST_TEST_DATA) is not there")


def image(path, size=(12, 9), value=120):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def make_busi(root):
    """Two images of each class; the second benign one has two lesions."""
    for label in ("normal", "benign", "malignant"):
        for number in (1, 2):
            image(root / label / f"{label} ({number}).png")
            image(root / label / f"{label} ({number})_mask.png", value=0 if label == "normal" else 255)
    image(root / "benign" / "benign (2)_mask_1.png", value=255)
    return root


def make_csv(root, names=("a.png", "b.png"), extra=""):
    for name in names:
        image(root / name)
    (root / "t.csv").write_text("image,label,patient,score\n" + "".join(f"{name},benign,P1,{extra}\n"
                                                                      for name in names), encoding="utf-8")
    return root


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def refusal(sources, paths, out, **options):
    """The message of a refused prepare, which changes nothing anywhere."""
    top = out.parent
    before = files(top)
    with pytest.raises(UserError) as caught:
        prepare(sources, paths, out, **options)
    assert files(top) == before
    assert not [path for path in top.rglob(".prepare-*")]
    return str(caught.value)


def test_a_set_is_pointed_to_and_only_joined_masks_are_made(tmp_path, capsys):
    root = make_busi(tmp_path / "set")
    before = files(root)
    table = prepare(["busi"], [root], tmp_path / "out")
    assert files(root) == before
    assert sorted(files(tmp_path / "out")) == ["masks/busi/benign/benign (2).png", "sources.csv", "table.csv"]
    assert table.rows.columns.tolist() == ["image", "label", "center", "patient", "device", "mask"]
    assert table.rows.iloc[1].tolist() == ["busi/benign/benign (2).png", "benign", "BUSI", "", "GE LOGIQ E9",
                                      "masks/busi/benign/benign (2).png"]
    assert table.rows["mask"][0] == "busi/benign/benign (1)_mask.png"
    assert read_rows(tmp_path / "out" / SOURCES_FILE, ()).rows == [(2, ["busi", str(root), "busi", "6"])]
    said = capsys.readouterr().out
    assert ("BUSI: 6 images (normal 2, benign 2, malignant 2); differs from the published 780 (normal 133, benign 437, "
            "malignant 210): 774 fewer") in said


def test_what_is_written_reads_back_as_what_was_returned(tmp_path):
    table = prepare(["busi"], [make_busi(tmp_path / "set")], tmp_path / "out")
    back = read_table(tmp_path / "out")
    assert back.rows.equals(table.rows)
    assert back.root == table.root == tmp_path / "out"
    assert all(path.is_file() for path in back.image_paths())


def test_a_copy_has_the_very_same_table_and_needs_the_source_no_more(tmp_path):
    root = make_busi(tmp_path / "set")
    prepare(["busi"], [root], tmp_path / "out")
    prepare(["busi"], [root], tmp_path / "copy", copy=True)
    root.rename(tmp_path / "gone")
    assert (tmp_path / "copy" / "table.csv").read_bytes() == (tmp_path / "out" / "table.csv").read_bytes()
    assert read_table(tmp_path / "copy").rows["image"].tolist()[0] == "busi/benign/benign (1).png"
    with pytest.raises(UserError, match="If the images were moved"):
        read_table(tmp_path / "out")


def test_sources_are_joined_into_one_table(tmp_path, capsys):
    table = prepare(["busi", "csv"], [make_busi(tmp_path / "set"), make_csv(tmp_path / "own", extra="7")],
                    tmp_path / "out", center=["", "Hospital A"])
    assert table.rows["image"].str.partition("/")[0].tolist() == ["busi"] * 6 + ["csv"] * 2
    assert table.rows["score"].tolist() == [""] * 6 + ["7"] * 2
    assert table.rows["center"].tolist() == ["BUSI"] * 6 + ["Hospital A"] * 2
    assert table.rows["patient"].tolist() == [""] * 6 + ["csv_P1"] * 2  # P1 of another source is somebody else
    assert read_table(tmp_path / "out").rows.equals(table.rows)
    said = capsys.readouterr().out
    assert "patient ids get the prefix 'csv_'" in said and "other columns, kept: score" in said


def test_the_same_source_twice_gets_a_number(tmp_path):
    for name in ("a", "b", "c"):
        image(tmp_path / name / "benign" / "x.png")
    table = prepare(["folder"] * 3, [tmp_path / name for name in "abc"], tmp_path / "out", center=["A", "B", "C"])
    assert table.rows["image"].tolist() == ["folder/benign/x.png", "folder-2/benign/x.png", "folder-3/benign/x.png"]
    assert table.rows["center"].tolist() == ["A", "B", "C"]
    assert [path.parts[-3] for path in read_table(tmp_path / "out").image_paths()] == ["a", "b", "c"]


def test_an_image_may_have_several_labels_or_none(tmp_path):
    labels = ["mass;calc", "mass", "", "calc"]
    for number in range(4):
        image(tmp_path / "in" / f"{number}.png")
    rows = "".join(f"{number}.png,{text}\n" for number, text in enumerate(labels))
    (tmp_path / "in" / "list.csv").write_text(f"image,label\n{rows}")
    assert "row 4" in refusal("csv", tmp_path / "in" / "list.csv", tmp_path / "out")
    prepare("csv", tmp_path / "in" / "list.csv", tmp_path / "out", label_delim=";")
    assert read_table(tmp_path / "out", (), label_delim=";").rows["label"].tolist() == labels
    assert "--label_delim=; is for --source=folder and csv" in refusal(
        "busi", make_busi(tmp_path / "busi"), tmp_path / "busi-out", label_delim=";")


def test_outlines_are_drawn_into_masks(tmp_path):
    image(tmp_path / "set" / "images" / "IMG1.jpeg")
    (tmp_path / "set" / "Annotations").mkdir()
    shapes = [{"shape_type": "polygon", "points": [[2, 2], [6, 2], [6, 6], [2, 6]]}]
    (tmp_path / "set" / "Annotations" / "IMG1.json").write_text(
        json.dumps({"imageWidth": 12, "imageHeight": 9, "shapes": shapes}))
    (tmp_path / "set" / "dataset.csv").write_text("image_id,center,tumor,benign,malignant\nIMG1.jpeg,1,1,1,0\n")
    table = prepare(["btxrd"], [tmp_path / "set"], tmp_path / "out")
    assert table.rows["mask"].tolist() == ["masks/btxrd/images/IMG1.png"]
    with Image.open(tmp_path / "out" / table.rows["mask"][0]) as mask:
        assert (mask.mode, mask.size, mask.getbbox()) == ("L", (12, 9), (2, 2, 7, 7))


def test_an_annotation_without_an_outline_gives_no_mask(tmp_path, capsys):
    make_csv(tmp_path / "set")
    (tmp_path / "set" / "t.csv").write_text("image,label,mask\na.png,benign,a.json\n")
    (tmp_path / "set" / "a.json").write_text('{"imageWidth": 12, "imageHeight": 9, "shapes": []}')
    assert prepare(["csv"], [tmp_path / "set"], tmp_path / "out").rows["mask"].tolist() == [""]
    assert "1 annotations have neither" in capsys.readouterr().out


def test_masks_made_for_images_of_one_name_do_not_meet(tmp_path):
    for name in ("a.png", "a.jpg"):
        image(tmp_path / "set" / name)
        (tmp_path / "set" / f"{name}.json").write_text(json.dumps({"imageWidth": 12, "imageHeight": 9, "shapes": [
            {"shape_type": "rectangle", "points": [[1, 1], [2, len(name)]]}]}))
    (tmp_path / "set" / "t.csv").write_text("image,label,mask\na.png,benign,a.png.json\na.jpg,benign,a.jpg.json\n")
    table = prepare(["csv"], [tmp_path / "set"], tmp_path / "out")
    assert table.rows["mask"].tolist() == ["masks/csv/a.png", "masks/csv/a.jpg.png"]


@pytest.mark.parametrize("name", [
    'quote".png', "comma, and; more.png", "new\nline.png", "return\r.png", "Größe 乳房.png", "=1+1.png", "'=1.png",
    "-5.png", "back\\slash.png", " space .png", "/".join(["long" * 25] * 3) + ".png", "a" * 240 + ".png"])
def test_file_names_of_any_kind_come_back_as_they_are(name, tmp_path):
    if os.name == "nt" and any(sign in name for sign in '"\n\r\\'):
        pytest.skip("no name for a file on Windows")
    file = image(tmp_path / "set" / "benign" / name)
    mask = image(file.with_name(f"{file.stem}_mask.png"))
    more = image(file.with_name(f"{file.stem}_mask_1.png"), value=0)
    table = prepare(["folder"], [tmp_path / "set"], tmp_path / "out")
    back = read_table(tmp_path / "out")
    assert back.rows.equals(table.rows)
    assert back.image_paths() == [file]
    assert mask.is_file() and more.is_file() and (tmp_path / "out" / back.rows["mask"][0]).is_file()


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    image(tmp_path / "set" / "benign" / "a.png")
    try:
        os.rename(tmp_path / "set" / "benign" / "a.png", os.fsencode(tmp_path / "set" / "benign") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes text only")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(["folder"], [tmp_path / "set"], tmp_path / "out")


def test_cells_that_a_spreadsheet_would_run_are_written_as_text(tmp_path):
    make_csv(tmp_path / "set", extra="=cmd()")
    prepare(["csv"], [tmp_path / "set"], tmp_path / "out")
    assert "'=cmd()" in (tmp_path / "out" / "table.csv").read_text()
    assert set(read_table(tmp_path / "out").rows["score"]) == {"=cmd()"}


def test_a_folder_that_holds_files_is_not_overwritten(tmp_path):
    root = make_busi(tmp_path / "set")
    image(tmp_path / "out" / "mine.png")
    assert "already holds files" in refusal(["busi"], [root], tmp_path / "out")
    assert "already holds files" in refusal(["busi"], [root], tmp_path / "out" / "mine.png")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    prepare(["busi"], [make_busi(tmp_path / "set")], tmp_path / "out")
    assert len(read_table(tmp_path / "out")) == 6


@pytest.mark.parametrize("out", ["set/out", "set/benign/out", "link/out"])
def test_nothing_is_written_into_a_source(out, tmp_path):
    root = make_busi(tmp_path / "set")
    (tmp_path / "link").symlink_to(root)
    before = files(root)
    with pytest.raises(UserError, match="which busfast does not change"):
        prepare(["busi"], [root], tmp_path / out)
    assert files(root) == before


def test_the_last_source_is_read_before_the_first_is_written(tmp_path):
    assert "There is no '" in refusal(["busi", "csv"], [make_busi(tmp_path / "set"), tmp_path / "none"],
                                           tmp_path / "out", copy=True)


@pytest.mark.parametrize(("sources", "paths", "options", "said"), [
    (["bussi"], ["set"], {}, "Did you mean 'busi'?"),
    (["busi", "csv"], ["set"], {}, "2 sources (busi, csv) need as many paths, not 1"),
    ([], [], {}, "0 sources"),
    (["busi", "busi"], ["set", "set/../set"], {}, "would duplicate all its images"),
    (["busi"], ["set"], {"columns": {"image": "file"}}, "--columns is for --source=csv"),
    (["busi"], ["set"], {"center": "A"}, "--center=A changes nothing: each image already has a center (BUSI)"),
    (["busi"], ["set"], {"center": ["A", "B"]}, "2 centers for 1 sources")])
def test_a_request_that_makes_no_sense_is_refused(sources, paths, options, said, tmp_path):
    make_busi(tmp_path / "set")
    assert said in refusal(sources, [tmp_path / path for path in paths], tmp_path / "out", **options)


def test_a_center_that_is_not_known_is_said(tmp_path, capsys):
    image(tmp_path / "set" / "benign" / "a.png")
    prepare(["folder"], [tmp_path / "set"], tmp_path / "out")
    assert "1 image without a center; name it: --center=NAME" in capsys.readouterr().out


def test_files_that_cannot_be_opened_are_said_before_any_is_decoded(tmp_path, capsys):
    image(tmp_path / "set" / "benign" / "a.png")
    (tmp_path / "set" / "benign" / "empty.png").touch()
    (tmp_path / "set" / "benign" / "huge.png").write_bytes(huge_png())
    assert len(prepare(["folder"], [tmp_path / "set"], tmp_path / "out")) == 3
    said = capsys.readouterr().out
    assert "2 files cannot be read, and stay in the table" in said and "empty.png cannot be opened" in said


def test_masks_of_too_many_pixels_are_not_joined(tmp_path):
    root = make_busi(tmp_path / "set")
    (root / "benign" / "benign (2)_mask_1.png").write_bytes(huge_png())
    assert "too many pixels to decode" in refusal(["busi"], [root], tmp_path / "out")


def huge_png(side=60_000):
    """A PNG of a header and nothing to decode."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body +
                                           struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)


def test_masks_of_different_sizes_are_refused_before_anything_is_written(tmp_path):
    root = make_busi(tmp_path / "set")
    image(root / "benign" / "benign (2)_mask_1.png", size=(9, 12))
    assert "of different sizes" in refusal(["busi"], [root], tmp_path / "out")


def test_a_mask_of_another_size_than_its_image_is_said(tmp_path, capsys):
    root = make_busi(tmp_path / "set")
    image(root / "benign" / "benign (1)_mask.png", size=(9, 12))
    prepare(["busi"], [root], tmp_path / "out")
    assert "1 masks have another size than their image, e.g. 'benign/benign (1).png' is 12 x 9, its mask 9 x 12" in \
        capsys.readouterr().out


def test_a_mask_that_breaks_while_it_is_made_leaves_nothing_behind(tmp_path):
    root = make_busi(tmp_path / "set")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)).save(
        mask := root / "benign" / "benign (2)_mask.png")
    mask.write_bytes(mask.read_bytes()[:-60])
    assert "cannot be read as a mask" in refusal(["busi"], [root], tmp_path / "out")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing_behind(failure, tmp_path, monkeypatch):
    def fail(*_):
        raise failure
    root = make_busi(tmp_path / "set")
    monkeypatch.setattr(module.os, "rename", fail)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        prepare(["busi"], [root], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value) and "--out=FOLDER" in str(caught.value)


def test_a_set_as_published_is_said_to_be_so(tmp_path, capsys, monkeypatch):
    root = make_busi(tmp_path / "set")
    monkeypatch.setitem(module.SOURCES, "busi", module.SOURCES["busi"]._replace(
        published={"normal": 2, "benign": 2, "malignant": 2}))
    prepare(["busi"], [root], tmp_path / "out")
    assert "BUSI: 6 images (normal 2, benign 2, malignant 2), as published" in capsys.readouterr().out


@originals
def test_the_original_layouts_become_one_table_that_can_be_read(tmp_path):
    names = ["busi", "bus_bra", "bus_uclm"]
    try:
        import openpyxl  # noqa: F401
        names.append("breast")
    except ImportError:
        pass
    table = prepare(names, [DATA / "layouts" / name for name in names], tmp_path / "out")
    back = read_table(tmp_path / "out")
    assert back.rows.equals(table.rows)
    assert {"BUSI", "BUS-BRA", "BUS-UCLM"} <= set(table.rows["center"])
    two = back.rows[back.rows["image"] == "busi/benign/benign (100).png"].iloc[0]
    with Image.open(tmp_path / "out" / two["mask"]) as joined:
        parts = [np.asarray(Image.open(DATA / "layouts/busi/Dataset_BUSI_with_GT/benign" / f"benign (100)_{part}.png"))
                 for part in ("mask", "mask_1")]
        assert np.array_equal(np.asarray(joined), np.uint8(255) * (parts[0] | parts[1]))


@pytest.mark.skipif(not (DATA / "btxrd" / "Annotations").is_dir(),
                    reason=f"no BTXRD: {DATA / 'btxrd'} (BUSFAST_TEST_DATA) is not there")
def test_the_original_outlines_of_btxrd_lie_in_the_boxes_of_their_lesions(tmp_path):
    table = prepare(["btxrd"], [DATA / "btxrd"], tmp_path / "out", partial=True)
    drawn = table.rows[table.rows["mask"] != ""]
    assert len(table) == 15 and len(drawn) == 10
    for image_name, name in zip(drawn["image"], drawn["mask"], strict=True):
        stem = Path(image_name).stem
        shapes = json.loads((DATA / "btxrd" / "Annotations" / f"{stem}.json").read_text())["shapes"]
        box = next(np.array(shape["points"]) for shape in shapes if shape["shape_type"] == "rectangle")
        with Image.open(tmp_path / "out" / name) as mask, Image.open(DATA / "btxrd" / "images" / Path(image_name).name
                                                                     ) as original:
            assert mask.size == original.size
            left, top, right, bottom = mask.getbbox()
        apart = np.abs(np.array([[left, top], [right, bottom]]) - [box.min(axis=0), box.max(axis=0)])
        assert apart.max() < 4 + 0.01 * max(mask.size)  # the boxes were drawn by hand, too
