"""Small sets in the layouts in which the public ones are published, for the tests of sources."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busfast.data.sources import read_source
from busfast.errors import UserError

DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
originals = pytest.mark.skipif(not (DATA / "layouts").is_dir(),
                               reason=f"no original layouts: {DATA / 'layouts'} (BUSFAST_TEST_DATA) is not there")


def image(path, size=(12, 9), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def mask(path, box, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("1", size)
    made.paste(1, box)
    made.save(path)
    return path


def make_busi(root):
    for label in ("normal", "benign", "malignant"):
        for number in (1, 2):
            image(root / label / f"{label} ({number}).png")
            mask(root / label / f"{label} ({number})_mask.png", (0, 0, 3, 3) if label != "normal" else (0, 0, 0, 0))
    mask(root / "benign" / "benign (2)_mask_1.png", (6, 4, 9, 8))
    (root / "benign" / "Thumbs.db").touch()
    image(root / "__MACOSX" / "benign" / "._benign (1).png")
    return root


def make_bus_bra(root):
    rows = [("bus_0001-l", 1, "malignant"), ("bus_0001-r", 1, "malignant"), ("bus_0002-s", 2, "benign")]
    for name, _, _ in rows:
        image(root / "Images" / f"{name}.png")
        mask(root / "Masks" / f"{name.replace('bus', 'mask')}.png", (0, 0, 4, 4))
    lines = [f'{name},{case},"cyst, simple",{label},4,GE Logiq 7 @10-14MHz,12,9,left,"[1,2,3,4]"'
             for name, case, label in rows]
    (root / "bus_data.csv").write_text(
        "\n".join(["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX", *lines]) + "\n")
    return root


def make_bus_uclm(root):
    rows = [("ALWI_000.png", "Benign"), ("ALWI_001.png", "Normal"), ("AL_WI_002.png", "Malignant")]
    for name, _ in rows:
        image(root / "images" / name)
        image(root / "masks" / name, mode="RGB")
    lines = [f"{name};12x9;{label};No;Yes;No" for name, label in rows]
    (root / "INFO.csv").write_text("\n".join(["Image;Resolution;Label;Doppler;Marks;Combined", *lines]) + "\n",
                                   encoding="utf-8-sig")
    return root


def make_breast(root, rows=None):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Age", "BIRADS",
                        "Diagnosis", "Classification"])
    rows = rows or [
        (1, "case001.png", "case001_tumor.png", None, 57, 2, "not applicable", "benign"),
        (2, "case002.png", "case002_tumor1.png&case002_tumor2.png", "case002_other1.png", "not available", "4b",
         "Cyst", "malignant"),
        (45, "case045.png", None, None, 32, 1, "not applicable", "normal")]
    for row in rows:
        book.active.append(row)
        image(root / "images_and_masks" / row[1])
        for name in f"{row[2] or ''}&{row[3] or ''}".split("&"):
            if name:
                mask(root / "images_and_masks" / name, (1, 1, 5, 5))
    book.save(root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx")
    return root


def make_btxrd(root, flags=(("0", "0", "0"), ("1", "1", "0"), ("1", "0", "1"))):
    lines = []
    for number, (tumor, benign, malignant) in enumerate(flags, start=1):
        image(root / "images" / f"IMG00000{number}.{'jpg' if number == 2 else 'jpeg'}")
        lines.append(f"IMG00000{number}.jpeg,{number}.0,{tumor},{benign},{malignant},F")
    (root / "dataset.csv").write_text("\n".join(["image_id,center,tumor,benign,malignant,gender", *lines]) + "\n")
    (root / "Annotations").mkdir()
    annotate(root / "Annotations" / "IMG000002.json", [("rectangle", [[0, 0], [11, 8]]),
                                                       ("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])])
    annotate(root / "Annotations" / "IMG000003.json", [("rectangle", [[8, 6], [4, 3]])])
    return root


def annotate(path, shapes, size=(12, 9)):
    path.write_text(json.dumps({"imageWidth": size[0], "imageHeight": size[1], "shapes": [
        {"shape_type": kind, "points": points, "label": "x"} for kind, points in shapes]}))
    return path


def make_folder(root):
    for name in ("Benign/a.png", "Benign/b.JPG", "malignant/c.png", "malignant/deep/er/d.bmp"):
        image(root / name)
    (root / "Benign" / "notes.txt").write_text("x")
    (root / ".DS_Store").touch()
    return root


def make_csv(root, text="file,dx,pid\na.png,benign,1\nb.png,Malignant,2\n", encoding="utf-8"):
    for name in ("a.png", "b.png", "sub/c.png"):
        image(root / name)
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return root


MAKERS = {"busi": make_busi, "bus_bra": make_bus_bra, "bus_uclm": make_bus_uclm, "breast": make_breast,
          "btxrd": make_btxrd, "folder": make_folder, "csv": make_csv}
COLUMNS = {"image": "file", "label": "dx", "patient": "pid"}


def refusal(name, path, **options):
    with pytest.raises(UserError) as caught:
        read_source(name, path, **options)
    return str(caught.value)


def rows(table, *columns):
    return table.rows[list(columns)].to_numpy().tolist()


def huge_png(side=60_000):
    """A PNG of a header and nothing to decode."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body +
                                            struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
