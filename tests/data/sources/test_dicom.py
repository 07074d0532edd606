"""What DICOM promises: the pixels a viewer shows, and nothing that tells who the patient is.

Covers busfast/data/sources/dicom_file.py, busfast/data/sources/dicom_tags.py, busfast/data/sources/dicom_pixels.py,
busfast/data/sources/dicom_frames.py and busfast/data/sources/dicom_image.py, too.
"""

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, UnidentifiedImageError

from busfast.data.fingerprint import fingerprint_images
from busfast.data.groups import group_names
from busfast.data.images import load_pixels, open_image, read_image
from busfast.data.open_data import find_data, hash_data, read_data
from busfast.data.prepare import prepare
from busfast.data.sources import dicom_file, guess_source, read_source
from busfast.data.sources.dicom_file import is_dicom
from busfast.data.sources.dicom_pixels import read_pixels
from busfast.data.table import read_table
from busfast.demo.uploads import read_upload
from busfast.errors import UserError
from busfast.inference.inputs import list_inputs
from busfast.pipelines.dali_formats import dali_mode

pydicom = pytest.importorskip("pydicom", minversion="3")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

NAME, PATIENT = "Doe^Jane", "123-45"


def dicom(path, pixels, syntax=ExplicitVRLittleEndian, data=None, report=False, drop=(), **tags):
    """Writes a DICOM file of an array (H, W) or (H, W, 3), or of the given encoded pixel data, without some tags."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = \
        "1.2.840.10008.5.1.4.1.1.88.11" if report else "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.PatientName, dataset.PatientID, dataset.InstitutionName = NAME, PATIENT, "Hospital A"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    if "BitsStored" in tags:
        dataset.HighBit = dataset.BitsStored - 1
    if data is not False:
        dataset.PixelData = pixels.tobytes() if data is None else data
        dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name in drop:
        delattr(dataset, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut(data, first=0, bits=8):
    item = Dataset()
    item.LUTDescriptor = [len(data), first, bits]
    item.LUTData = data
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


RAMP8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP12 = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
COLORS = np.stack([RAMP8, RAMP8[::-1], RAMP8.T], axis=-1)


def convert(tmp_path, pixels, **tags):
    """The pixels of the PNG that a file with these pixels and tags becomes."""
    dicom(tmp_path / "set" / "benign" / "a", pixels, **tags)
    table = prepare(["dicom"], [tmp_path / "set"], tmp_path / "out")
    with Image.open(tmp_path / "out" / table.rows["image"][0]) as image:
        assert image.mode in ("L", "RGB") and image.info == {}
        return np.asarray(image)


def refusal(tmp_path, **options):
    with pytest.raises(UserError) as caught:
        prepare(["dicom"], [tmp_path / "set"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".prepare-*"))
    return str(caught.value)


def expected(values, low, high):
    low, high = float(low), float(high)
    return np.round((values.astype(float).clip(low, high) - low) * 255 / (high - low)).astype(np.uint8)


def test_gray_of_8_bits_without_a_window_stays_as_it_is(tmp_path):
    assert np.array_equal(convert(tmp_path, RAMP8 // 2), RAMP8 // 2)


@pytest.mark.parametrize(("pixels", "tags"), [
    (RAMP12, {"BitsStored": 12}), (RAMP12 + 20_000, {}), (RAMP12.astype(np.int16) - 2000, {}),
    (RAMP12.astype(np.int16) * 16 - 32_000, {}),
    (RAMP12.astype(np.int16) - 2000, {"RescaleSlope": 2, "RescaleIntercept": -1024}),
    (RAMP8.astype(np.int8), {})])
def test_deep_gray_without_a_window_is_stretched_from_its_darkest_to_its_brightest_value(pixels, tags, tmp_path):
    assert np.array_equal(convert(tmp_path, pixels, **tags), expected(pixels, pixels.min(), pixels.max()))


@pytest.mark.parametrize("tags", [
    {}, {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 976}, {"WindowCenter": [2000, 5]}])
def test_the_first_window_says_what_is_black_and_white(tags, tmp_path):
    width = [1000, 10] if isinstance(tags.get("WindowCenter"), list) else 1000
    seen = convert(tmp_path, RAMP12, BitsStored=12, **({"WindowCenter": 2000, "WindowWidth": width} | tags))
    # PS3.3 C.11.2.1.2.1: black up to c - 0.5 - (w - 1)/2, white beyond c - 0.5 + (w - 1)/2
    wanted = expected(RAMP12, 2000 - 0.5 - 999 / 2, 2000 - 0.5 + 999 / 2)
    assert np.abs(seen.astype(int) - wanted).max() <= 1
    assert seen.min() == 0 and seen.max() == 255


def test_a_window_wider_than_the_image_is_not_stretched(tmp_path):
    seen = convert(tmp_path, RAMP8 // 4 + 64, WindowCenter=128, WindowWidth=256)
    assert np.array_equal(seen, RAMP8 // 4 + 64)


def test_a_negative_slope_turns_the_image_over(tmp_path):
    seen = convert(tmp_path, RAMP8, RescaleSlope=-1, RescaleIntercept=255, WindowCenter=128, WindowWidth=256)
    assert np.abs(seen.astype(int) - (255 - RAMP8)).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_functions_of_a_window_are_obeyed(function, tmp_path):
    seen = convert(tmp_path, RAMP12, BitsStored=12, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function)
    x = (RAMP12.astype(float) - 2000) / 1000
    wanted = 255 * (x + 0.5).clip(0, 1) if function == "LINEAR_EXACT" else 255 / (1 + np.exp(-4 * x))
    assert np.abs(seen - wanted).max() <= 1


def test_monochrome1_is_turned_over(tmp_path):
    seen = convert(tmp_path, RAMP12, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(seen, 255 - expected(RAMP12, 0, RAMP12.max()))


def test_a_modality_lut_is_applied(tmp_path):
    seen = convert(tmp_path, RAMP8, ModalityLUTSequence=lut([value // 2 for value in range(256)]))
    assert np.array_equal(seen, RAMP8 // 2)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_voi_lut_of_more_entries_than_8_bits_count_is_applied(bits, tmp_path):
    entries = [value * (2**bits - 1) // 4095 for value in range(4095, -1, -1)]
    seen = convert(tmp_path, RAMP12, BitsStored=12, VOILUTSequence=lut(entries, bits=bits))
    assert np.abs(seen.astype(int) - (255 - expected(RAMP12, 0, 4095))).max() <= 1


def test_color_stays_color(tmp_path):
    assert np.array_equal(convert(tmp_path, COLORS), COLORS)


def test_planes_of_color_one_after_the_other_are_read(tmp_path):
    assert np.array_equal(convert(tmp_path, COLORS, PlanarConfiguration=1, data=np.moveaxis(COLORS, -1, 0).tobytes()),
                          COLORS)


def test_ybr_is_turned_into_rgb(tmp_path):
    from pydicom.pixels import convert_color_space

    smooth = np.stack([RAMP8, np.full_like(RAMP8, 90), 255 - RAMP8], axis=-1)
    ybr = convert_color_space(smooth, "RGB", "YBR_FULL")
    seen = convert(tmp_path, ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(seen.astype(int) - smooth).max() <= 3


def test_compressed_files_that_can_be_decoded_are(tmp_path):
    from pydicom.pixels import get_encoder

    dataset = pydicom.dcmread(dicom(tmp_path / "plain", RAMP8))
    packed = get_encoder(RLELossless).encode(dataset, index=0, encoding_plugin="pydicom")
    assert np.array_equal(convert(tmp_path, RAMP8, syntax=RLELossless, data=encapsulate([packed])), RAMP8)


@pytest.mark.parametrize("color", [False, True])
def test_jpeg_is_decoded(color, tmp_path):
    if not pydicom.pixels.get_decoder(JPEGBaseline8Bit).is_available:
        pytest.skip("no decoder of JPEG Baseline is installed")
    flat = np.zeros((16, 16, 3), np.uint8) + np.array([200, 90, 30], np.uint8)
    pixels = flat if color else RAMP8
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="JPEG", quality=95)
    tags = {"PhotometricInterpretation": "YBR_FULL_422"} if color else {}
    seen = convert(tmp_path, pixels, syntax=JPEGBaseline8Bit, data=encapsulate([encoded.getvalue()]), **tags)
    assert seen.shape == pixels.shape and np.abs(seen.astype(int) - pixels).max() <= 12


def test_a_compression_that_needs_a_plugin_is_refused_by_file_and_name(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=JPEGLosslessSV1, data=encapsulate([b"\xff\xd8\xff"]))
    if pydicom.pixels.get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder of JPEG Lossless is installed")
    message = refusal(tmp_path)
    assert "benign/a" in message and JPEGLosslessSV1.name in message and "pip install pylibjpeg" in message


def test_pixels_that_turn_out_broken_leave_nothing_behind(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, data=RAMP8.tobytes()[:40])
    assert "damaged" in refusal(tmp_path)
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=JPEG2000Lossless, data=encapsulate([b"no JPEG at all"]))
    assert "damaged or for other decoders" in refusal(tmp_path)


def test_jpeg_2000_with_a_box_of_no_length_is_refused_instead_of_read_forever(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=JPEG2000Lossless,
          data=encapsulate([b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)]))
    assert "a box of length 0" in refusal(tmp_path)


def test_more_pixels_than_the_limit_are_refused_by_the_header(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, Rows=60_000, Columns=60_000)
    assert "60000 x 60000 pixels" in refusal(tmp_path)


def test_deflated_files_are_read_and_one_that_unpacks_to_anything_is_refused(tmp_path, monkeypatch):
    assert np.array_equal(convert(tmp_path, RAMP8, syntax=DeflatedExplicitVRLittleEndian), RAMP8)
    monkeypatch.setattr(dicom_file, "MOST_UNPACKED", 100)
    shutil.rmtree(tmp_path / "out")
    assert "deflated, and larger than" in refusal(tmp_path)


@pytest.mark.parametrize(("factor", "bits"), [(257, 16), (1, 16), (16, 12)])
def test_color_of_more_than_8_bits_is_reduced_to_8_and_values_of_8_bits_are_not(factor, bits, tmp_path):
    seen = convert(tmp_path, COLORS.astype(np.uint16) * factor, BitsStored=bits)
    assert np.abs(seen.astype(int) - COLORS).max() <= 1


@pytest.mark.parametrize("bits", [1, 4])
def test_gray_of_fewer_than_8_bits_is_scaled(bits, tmp_path):
    pixels = RAMP8 >> (8 - bits)
    assert np.array_equal(convert(tmp_path, pixels, BitsStored=bits), expected(pixels, 0, 2**bits - 1))


@pytest.mark.parametrize(("kind", "name"), [(np.float32, "FloatPixelData"), (np.float64, "DoubleFloatPixelData")])
def test_pixels_may_be_floats(kind, name, tmp_path):
    values = (RAMP8 / 7 - 3).astype(kind)
    tags = {name: values.tobytes(), "BitsAllocated": values.itemsize * 8}
    drop = ("BitsStored", "HighBit", "PixelRepresentation")
    plain = convert(tmp_path, values, data=False, drop=drop, **tags)
    assert np.array_equal(plain, RAMP8)
    shutil.rmtree(tmp_path / "out")
    narrow = convert(tmp_path, values, data=False, drop=drop, WindowCenter=10, WindowWidth=10, **tags)
    assert np.abs(narrow - (255 * (values.astype(float) - 5) / 9).clip(0, 255)).max() <= 1


@pytest.mark.parametrize(("tags", "said"), [
    ({"WindowWidth": 0}, True), ({"WindowWidth": 0.5}, True), ({"WindowWidth": [0, 400]}, True),
    ({"WindowWidth": -300, "VOILUTFunction": "SIGMOID"}, True), ({"WindowWidth": None}, False),
    ({"WindowWidth": None, "RescaleSlope": None, "RescaleIntercept": None}, False)])
def test_a_window_narrower_than_1_or_empty_is_none(tags, said, tmp_path, capsys):
    center = [40, 50] if isinstance(tags["WindowWidth"], list) else 40
    seen = convert(tmp_path, RAMP12, BitsStored=12, WindowCenter=center, **tags)
    assert np.array_equal(seen, expected(RAMP12, RAMP12.min(), RAMP12.max()))
    assert ("1 DICOM file with a window narrower than 1" in capsys.readouterr().out) == said


def test_a_broken_file_is_refused_by_name(tmp_path):
    file = dicom(tmp_path / "set" / "benign" / "a", RAMP8)
    whole = file.read_bytes()
    for broken in (whole[:136] + b"\xff" * 50, whole[:200], whole[:-270]):
        file.write_bytes(broken)
        message = refusal(tmp_path)
        assert "benign/a" in message and ("damaged" in message or "only a header" in message)


def make_troubles(tmp_path):
    """Two good files, one of each kind that gives no image, and a report."""
    root = tmp_path / "set" / "benign"
    for name in ("good", "better"):
        dicom(root / name, RAMP8, PatientID=name)
    dicom(root / "clip", RAMP8, NumberOfFrames=3, data=3 * RAMP8.tobytes(), PatientID="C")
    dicom(root / "cut", RAMP8, data=RAMP8.tobytes()[:40])
    dicom(root / "header", RAMP8, data=False)
    dicom(root / "huge", RAMP8, Rows=60_000, Columns=60_000)
    dicom(root / "endless", RAMP8, NumberOfFrames=2**30)
    for name in ("new1", "new2"):
        dicom(root / name, RAMP8, syntax=HTJ2KLossless, data=encapsulate([b"\xff\x4f\xff\x51"]))
    dicom(root / "film", RAMP8, syntax=MPEG2MPML, data=encapsulate([b"\0\0\1\xb3"]))
    dicom(root / "report", np.zeros((0, 0), np.uint8), data=False, report=True)
    return root


def test_all_files_that_give_no_image_are_refused_at_once_by_reason(tmp_path):
    make_troubles(tmp_path)
    message = refusal(tmp_path)
    for line in ("8 DICOM files cannot be used:", "--frames=middle, or first, all, every:N): benign/clip (3 frames)",
                 "damaged (export again): benign/endless (claims 1073741824 frames), benign/cut (The number of bytes",
                 "1 DICOM file, only a header, without pixels (export again): benign/header",
                 "benign/huge (60000 x 60000 pixels", f"(export them uncompressed): benign/film ({MPEG2MPML.name})",
                 "prepare --partial leaves such files out"):
        assert line in message
    if not pydicom.pixels.get_decoder(HTJ2KLossless).is_available:
        assert "2 DICOM files, in a compression whose decoder is not installed (pip install pylibjpeg" in message
    assert "good" not in message and "report" not in message


def test_partial_takes_the_others_and_says_which_are_left_out(tmp_path, capsys):
    root = make_troubles(tmp_path)
    table = prepare(["dicom"], [tmp_path / "set"], tmp_path / "out", partial=True, link=tmp_path / "link.csv")
    assert pd.read_csv(tmp_path / "link.csv")["source"].tolist() == [str(root / "better"), str(root / "good")]
    said = capsys.readouterr().out
    for words in ("left out: 1 DICOM file, several frames", f"{root / 'cut'} (The number", "benign/header",
                  "2 files made"):
        assert words in said
    assert read_table(tmp_path / "out").rows.equals(table.rows) and len(table) == 2
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert pd.read_csv(tmp_path / "out" / "sources.csv")["images"].tolist() == [2]


def test_partial_refuses_where_nothing_is_left(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, data=RAMP8.tobytes()[:40])
    assert "1 DICOM file cannot be used" in refusal(tmp_path, partial=True)


@pytest.mark.parametrize(("frames", "taken"), [("first", [0]), ("middle", [3]), ("all", [0, 1, 2, 3, 4, 5]),
                                               ("every:4", [0, 4])])
def test_frames_of_a_clip_become_images_of_one_patient_and_one_group(frames, taken, tmp_path, capsys):
    clip = [RAMP8 // (k + 1) for k in range(6)]
    dicom(tmp_path / "set" / "benign" / "clip", RAMP8, NumberOfFrames=6, data=b"".join(one.tobytes() for one in clip))
    dicom(tmp_path / "set" / "benign" / "still", RAMP8, PatientID="another")
    table = prepare(["dicom"], [tmp_path / "set"], tmp_path / "out", frames=frames)
    *rows, still = table.rows.to_dict("records")
    assert still["group"] == "" and still["image"] == "images/dicom_000002.png"
    assert {row["group"] for row in rows} == {"dicom_000001"}
    assert len({row["patient"] for row in rows}) == 1 and len(rows) == len(taken)
    for row, frame in zip(rows, taken, strict=True):
        assert row["image"] == f"images/dicom_000001_{frame + 1:04}.png"
        assert np.array_equal(Image.open(tmp_path / "out" / row["image"]), clip[frame])
    assert f"{len(taken)} frame{'s' * (len(taken) > 1)} of 1 clip" in capsys.readouterr().out
    assert set(group_names(table.rows, across_centers=False)[:-1]) == {group_names(table.rows, across_centers=False)[0]}


@pytest.mark.parametrize("frames", ["last", "every", "every:0", "every:x", "all:2", "3"])
def test_other_words_for_frames_are_refused_before_anything_is_read(frames, tmp_path):
    assert "first, middle, all, or every:N" in refusal(tmp_path, frames=frames)


def palette(values, bits, first=0, order="<"):
    tags = {}
    for color, entries in zip(("Red", "Green", "Blue"), values, strict=True):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        data = np.asarray(entries, np.uint16 if max(map(max, values)) > 255 or bits > 8 else np.uint8)
        if data.dtype == np.uint16:
            data = data.astype(f"{order}u2")
        elif order == ">":
            data = data.reshape(-1, 2)[:, ::-1]  # in words
        tags[f"{color}PaletteColorLookupTableData"] = data.tobytes()
    return {"PhotometricInterpretation": "PALETTE COLOR", **tags}


RAMPS = [list(range(256)), list(range(255, -1, -1)), [7] * 256]
PAINTED = np.stack([RAMP8, 255 - RAMP8, np.full_like(RAMP8, 7)], axis=-1)


@pytest.mark.parametrize(("factor", "bits"), [(1, 8), (1, 16), (256, 16), (257, 16)])
@pytest.mark.parametrize("big", [False, True])
def test_palettes_of_all_widths_and_orders_give_the_same_colors(factor, bits, big, tmp_path):
    values = [[entry * factor for entry in entries] for entries in RAMPS]
    seen = convert(tmp_path, RAMP8, syntax=ExplicitVRBigEndian if big else ExplicitVRLittleEndian,
                   **palette(values, bits, order=">" if big else "<"))
    assert np.array_equal(seen, PAINTED)


def test_a_palette_of_more_than_256_entries_of_8_bits_is_looked_up_by_the_whole_value(tmp_path):
    values = [[entry // 16 for entry in range(4096)] for _ in range(3)]
    seen = convert(tmp_path, RAMP12, BitsStored=12, **palette(values, 8))
    assert np.array_equal(seen, np.stack([RAMP12 // 16] * 3, axis=-1))


def test_a_modality_lut_of_more_entries_than_the_pixels_count_is_applied(tmp_path):
    seen = convert(tmp_path, RAMP8, ModalityLUTSequence=lut([value // 2 for value in range(4096)], bits=16))
    assert np.array_equal(seen, RAMP8 // 2)


@pytest.mark.parametrize(("implicit", "little", "meta"), [
    (True, True, False), (False, True, False), (False, False, False), (False, True, True)])
def test_files_without_a_preamble_are_dicom(implicit, little, meta, tmp_path):
    file = dicom(tmp_path / "set" / "benign" / "a", RAMP12, BitsStored=12)
    dataset = pydicom.dcmread(file)
    if meta:
        file.write_bytes(file.read_bytes()[132:])
    else:
        del dataset.file_meta
        dataset.preamble = None
        dataset.PixelData = RAMP12.astype("<u2" if little else ">u2").tobytes()
        pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    assert is_dicom(file) and file.read_bytes()[128:132] != b"DICM" and guess_source(tmp_path / "set") == "dicom"
    table = prepare(["dicom"], [tmp_path / "set"], tmp_path / "out")
    assert np.array_equal(Image.open(tmp_path / "out" / table.rows["image"][0]), expected(RAMP12, 0, RAMP12.max()))


@pytest.mark.parametrize("content", [
    b"", b"\x08\0\x05\0CS", b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100 and so on" * 9, bytes(300), b"\x02\0\0\0UL\x04\0" * 40,
    b"\x08\0\x16\0UI\x06\0" + b"abcdef" * 40, b"\0\x08\0\x05CS" * 60, b"DICM" * 30, RAMP12.tobytes() * 9])
def test_other_files_are_no_dicom(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")
    with pytest.raises(UnidentifiedImageError):
        open_image(tmp_path / "file")


def test_all_that_reads_images_reads_dicom_as_prepare_renders_it(tmp_path, capsys):
    """Class folders, a folder, a list, an upload and bytes; without a table."""
    for number in range(4):
        tags = {"WindowCenter": 1000 + 300 * number, "WindowWidth": 900, "PatientID": f"P{number // 2}"}
        dicom(tmp_path / "set" / ("benign", "malignant")[number % 2] / f"IM{number}", RAMP12, BitsStored=12, **tags)
    dicom(tmp_path / "set" / "benign" / "report", np.zeros((0, 0), np.uint8), data=False, report=True)
    made = prepare(["dicom"], [tmp_path / "set"], tmp_path / "out")
    table = read_data(tmp_path / "set")
    assert table.rows["label"].tolist() == ["benign"] * 2 + ["malignant"] * 2
    assert table.rows["patient"].tolist() == ["dicom-1", "dicom-2"] * 2  # the same each time, and no hash to be guessed
    assert len(hash_data(tmp_path / "set")) == 64 and find_data(tmp_path / "set") == tmp_path / "set" / "table.csv"
    paths = table.image_paths()
    names, listed = list_inputs(tmp_path / "set")
    assert listed == paths and names == [str(path) for path in paths]  # without the report
    for path, png in zip(paths, made.image_paths(), strict=True):
        wanted = np.asarray(Image.open(png))
        for image in (read_image(path, keep_gray=True), read_image(path.read_bytes(), keep_gray=True),
                      read_upload(path.read_bytes(), 10**6)):
            assert image.mode == "L" and np.array_equal(image, wanted)
        with open_image(path) as opened:
            assert opened.size == (16, 16) and opened.format == "DICOM"
        assert np.array_equal(load_pixels(path, 8), load_pixels(png, 8))
    prints = fingerprint_images([*paths, *made.image_paths()])
    assert prints["pixels"][:4].tolist() == prints["pixels"][4:].tolist() and not prints["reason"].any()


@pytest.mark.parametrize("whole", [False, True])
def test_the_header_of_a_tiff_file_before_a_dicom_file_is_not_heeded(whole, tmp_path):
    """Scanners write files that are both; of some, no more than the header of the TIFF file has survived."""
    path = dicom(tmp_path / "a", RAMP8, WindowCenter=100, WindowWidth=50, DataSetTrailingPadding=b"TIFF" + bytes(120))
    data = path.read_bytes()
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: data.index(RAMP8.tobytes()), 277: 1, 278: 16, 279: 256}
    pages = len(tags).to_bytes(2, "little") + b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags.items())
    place = data.index(b"TIFF")
    data = b"II*\0" + place.to_bytes(4, "little") + data[8:]
    data = data[:place] + pages + data[place + len(pages):] if whole else data
    path.write_bytes(data)
    if whole:
        assert np.array_equal(Image.open(path), RAMP8) and Image.open(path).format == "TIFF"
    wanted = read_pixels(path)
    assert not np.array_equal(wanted, RAMP8)
    for image in (read_image(path), read_image(data), read_upload(data, 10**6)):
        assert np.array_equal(image.convert("L"), wanted)
    assert dali_mode(np.frombuffer(data, np.uint8)) == ""


def test_a_table_of_dicom_files_gets_the_patients_that_the_files_name(tmp_path):
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", "P2"), ("d", "P2"), ("e", "")):
        dicom(tmp_path / name, RAMP8, PatientID=patient)
    table = "image,label,patient\na,benign,\nb,benign,\nc,malignant,\nd,malignant,mine\ne,benign,\n"
    (tmp_path / "table.csv").write_text(table)
    assert read_data(tmp_path).rows["patient"].tolist() == ["dicom-1", "dicom-1", "dicom-2", "mine", ""]
    (tmp_path / "c").unlink()
    assert read_data(tmp_path, files=False).rows["patient"].tolist() == ["dicom-1", "dicom-1", "", "mine", ""]


def test_what_gives_no_image_says_so_wherever_it_is_read(tmp_path):
    root = make_troubles(tmp_path)
    for name, reason in (("clip", "--frames=middle"), ("cut", "damaged"), ("header", "only a header"),
                         ("report", "no image, but a report"), ("huge", "more pixels than the limit")):
        with pytest.raises(ValueError, match=reason):
            load_pixels(root / name, 8)
        with pytest.raises(UserError, match=f"cannot be read .*{reason}"):
            read_upload((root / name).read_bytes(), 10**6)
    with pytest.raises(UserError, match="8 DICOM files cannot be used"):
        read_data(tmp_path / "set")
    assert len(read_data(tmp_path / "set", files=False)) == 10  # for the audit, which says of each why


def test_an_image_that_was_unreadable_is_tried_again(tmp_path, monkeypatch):
    """A decoder may have been installed; the file is the same."""
    file = dicom(tmp_path / "a", RAMP8)
    with monkeypatch.context() as patch:
        patch.setattr(dicom_file, "_missing_decoder", lambda syntax: "no decoder")
        assert "no decoder" in fingerprint_images([file])["reason"][0]
    assert not fingerprint_images([file])["reason"][0]


@pytest.mark.parametrize("folder", ["", "scans/", "images/"])
def test_a_table_beside_dicom_files_names_them_with_or_without_their_ending(folder, tmp_path):
    for name in ("a.dcm", "b.dcm", "IM3"):
        dicom(tmp_path / "set" / folder / name, RAMP8, PatientID=name)
    (tmp_path / "set" / "t.csv").write_text(f"image,label\n{folder}a.dcm,benign\n{folder}IM3,malignant\n")
    assert guess_source(tmp_path / "set") == "csv"
    assert read_data(tmp_path / "set").rows["label"].tolist() == ["benign", "malignant"]


def test_pixels_agree_with_pydicom_on_its_own_files():
    """Up to black and white, which `apply_voi_lut` leaves open."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    compared = 0
    for file in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        dataset = pydicom.dcmread(file, force=True)
        try:
            values = pixel_array(dataset, index=0)
        except Exception:  # a plan, a report, a compression without decoder, a broken file
            continue
        ours = read_pixels(file, 0).astype(float)
        if dataset.PhotometricInterpretation.startswith("MONOCHROME"):
            theirs = apply_voi_lut(apply_modality_lut(values, dataset), dataset).astype(float)
        elif dataset.PhotometricInterpretation == "PALETTE COLOR":
            theirs = pydicom.pixels.apply_color_lut(values, dataset).astype(float)
        else:
            theirs = values.astype(float)
        slope, base = np.polyfit(theirs.ravel(), ours.ravel(), 1) if np.ptp(theirs) else (0, ours.mean())
        assert np.abs(slope * theirs + base - ours).max() <= 1, file.name
        compared += 1
    assert compared >= 40


def make_set(tmp_path):
    """Two images of a patient and one of another, and what else lies in such a folder."""
    dicom(tmp_path / "set" / "benign" / "DOE_JANE.dcm", RAMP8, BurnedInAnnotation="YES")
    dicom(tmp_path / "set" / "benign" / "study" / "IM0001", RAMP8)
    dicom(tmp_path / "set" / "malignant" / "IM0002", RAMP8, PatientID="77")
    dicom(tmp_path / "set" / "malignant" / "IM0003", RAMP8, PatientID="", InstitutionName="")
    dicom(tmp_path / "set" / "malignant" / "report", np.zeros((0, 0), np.uint8), data=False, report=True)
    (tmp_path / "set" / "malignant" / "notes.txt").write_text("x")
    return tmp_path / "set"


def test_nothing_tells_who_the_patient_is(tmp_path, capsys):
    prepare(["dicom"], [make_set(tmp_path)], tmp_path / "out", salt="a long secret")
    written = b"".join(path.read_bytes() + path.name.encode() for path in (tmp_path / "out").rglob("*.*"))
    for secret in (b"Doe", b"DOE", b"Jane", b"123-45", b"Hospital", b"IM0001", b"a long secret", b"1.2.840", b"/set"):
        assert secret not in written
    table = read_table(tmp_path / "out")
    assert table.rows["image"].tolist() == [f"images/dicom_00000{number}.png" for number in (1, 2, 3, 4)]
    assert table.rows["label"].tolist() == ["benign", "benign", "malignant", "malignant"]
    said = capsys.readouterr().out
    for words in ("1 files declare some", "1 of 4 DICOM files have an empty PatientID",
                  "1 DICOM files hold no image (e.g. 'malignant/report')", "derived from your salt", ".txt (1)"):
        assert words in said


def test_patients_are_keyed_hashes_that_only_the_same_salt_repeats(tmp_path, capsys):
    root = make_set(tmp_path)
    ids = [prepare(["dicom"], [root], tmp_path / f"out{number}", salt=salt).rows["patient"].tolist()
           for number, salt in enumerate(("s1", "s1", "s2", "", ""))]
    assert ids[0] == ids[1]
    assert len({of[0] for of in ids}) == 4
    for one in ids:
        assert one[0] == one[1] != one[2] and one[3] == ""
        assert all(len(patient) == 12 and int(patient, 16) >= 0 for patient in one[:3])
    assert "another prepare gives other ids; --salt=SECRET gives the same ones" in capsys.readouterr().out


def test_the_center_is_the_tag_that_the_user_names(tmp_path):
    root = make_set(tmp_path)
    table = prepare(["dicom"], [root], tmp_path / "out", center_tag="InstitutionName")
    assert table.rows["center"].tolist() == ["Hospital A"] * 3 + [""]
    both = prepare(["dicom"], [root], tmp_path / "both", center_tag="InstitutionName", center="other")
    assert both.rows["center"].tolist() == ["Hospital A"] * 3 + ["other"]


@pytest.mark.parametrize(("tag", "said"), [
    ("InstitutionNam", "Did you mean 'InstitutionName'?"), ("PatientName", "who the patient is"),
    ("PatientID", "who the patient is"), ("ReferringPhysicianName", "who the patient is"), ("PixelData", "not text")])
def test_a_tag_that_is_no_name_of_a_center_is_refused(tag, said, tmp_path):
    make_set(tmp_path)
    assert said in refusal(tmp_path, center_tag=tag)


def test_which_image_is_of_which_file_is_written_only_where_asked_and_only_for_this_user(tmp_path, capsys):
    root, link = make_set(tmp_path), tmp_path / "link.csv"
    table = prepare(["dicom"], [root], tmp_path / "out", link=link)
    rows = pd.read_csv(link).to_numpy().tolist()
    assert rows[0] == [table.rows["image"][0], str(root / "benign" / "DOE_JANE.dcm")] and len(rows) == 4
    if os.name == "posix":
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
    assert "and so the patient: do not keep it with" in capsys.readouterr().out


@pytest.mark.parametrize("link", ["out/link.csv", "set/link.csv", "there.csv", "none/link.csv"])
def test_a_link_file_in_the_wrong_place_is_refused(link, tmp_path):
    make_set(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    assert "--link=" in refusal(tmp_path, link=tmp_path / link)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_dicom_files_are_recognised_whatever_they_are_called(tmp_path):
    dicom(tmp_path / "set" / "benign" / "IM0001", RAMP8)
    dicom(tmp_path / "set" / "malignant" / "x.ima", RAMP8)
    assert guess_source(tmp_path / "set") == "dicom"
    assert read_source("dicom", tmp_path / "set").rows["image"].tolist() == ["benign/IM0001", "malignant/x.ima"]


def test_folders_of_patients_stand_in_for_an_empty_patient_id_and_are_not_named(tmp_path):
    for number in range(8):
        file = tmp_path / "set" / "ab"[number % 2] / f"DOE{number % 4}" / "study 1" / "series 2" / f"1.2.840.{number}"
        dicom(file, RAMP8, PatientID="77" if number < 2 else "")
        Image.fromarray(RAMP8).save(file.with_name(f"{file.name}_mask.png"))
    assert guess_source(tmp_path / "set") == "dicom"
    table = prepare(["folder"], [tmp_path / "set"], tmp_path / "out", salt="secret")
    assert pd.factorize(table.rows["patient"])[0].tolist() == [0, 0, 1, 1, 0, 0, 2, 2]  # one file's id is its folder's
    assert not table.rows["patient"].str.contains("DOE").any()
    assert table.rows["mask"].tolist() == [f"masks/folder_00000{number}.png" for number in range(1, 9)]


def test_a_folder_of_images_and_dicom_files_is_read_whole(tmp_path):
    dicom(tmp_path / "set" / "benign" / "IM0001", RAMP8)
    Image.fromarray(RAMP8).save(tmp_path / "set" / "benign" / "a.png")
    table = prepare(["folder"], [tmp_path / "set"], tmp_path / "out")
    assert table.rows["image"].tolist() == ["images/folder_000001.png", "folder/benign/a.png"]
    assert read_table(tmp_path / "out").rows.equals(table.rows)


def test_a_csv_may_name_dicom_files(tmp_path):
    for name in ("b/DOE", "a/ROE"):
        dicom(tmp_path / "set" / name, RAMP8, PatientID=name)
    Image.fromarray(RAMP8).save(tmp_path / "set" / "DOE_mask.png")
    (tmp_path / "set" / "t.csv").write_text("image,label,patient,mask\nb/DOE,benign,P7,DOE_mask.png\na/ROE,normal,,\n")
    table = prepare(["csv"], [tmp_path / "set"], tmp_path / "out")
    assert table.rows["image"].tolist() == ["images/csv_000002.png", "images/csv_000001.png"]  # numbered by sorted path
    assert table.rows["patient"][0] == "P7" and len(table.rows["patient"][1]) == 12
    assert table.rows["mask"].tolist() == ["masks/csv_000002.png", ""]  # its name might tell, too


def test_without_pydicom_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    make_set(tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'pydicom>=3'" in refusal(tmp_path)


def test_a_folder_without_dicom_files_is_refused(tmp_path):
    (tmp_path / "set" / "benign").mkdir(parents=True)
    Image.fromarray(RAMP8).save(tmp_path / "set" / "benign" / "a.png")
    assert "0 DICOM files (1 images of other kinds" in refusal(tmp_path)


@pytest.mark.parametrize("option", ["salt", "center_tag", "link"])
def test_options_for_dicom_are_refused_where_there_is_none(option, tmp_path):
    (tmp_path / "set" / "benign").mkdir(parents=True)
    Image.fromarray(RAMP8).save(tmp_path / "set" / "benign" / "a.png")
    with pytest.raises(UserError, match=f"--{option} is for DICOM"):
        prepare(["folder"], [tmp_path / "set"], tmp_path / "out", **{option: str(tmp_path / "InstitutionName")})


@pytest.mark.parametrize("tags", [{"PixelPaddingValue": 65535}, {"PixelPaddingValue": 65535,
                                                                 "PixelPaddingRangeLimit": 60000}])
def test_filling_around_the_image_does_not_set_what_is_black_and_white(tags, tmp_path):
    pixels = np.linspace(100, 4000, 99).reshape(9, 11).round().astype(np.uint16)
    filled = pixels.copy()
    filled[0] = [65535 if "PixelPaddingRangeLimit" not in tags else 60000 + step for step in range(11)]
    converted = convert(tmp_path, filled, **tags)
    np.testing.assert_array_equal(converted[1:], expected(pixels[1:], pixels[1:].min(), 4000))
