"""What DICOM promises: the pixels a viewer shows, and nothing that tells who the patient is.

Covers busfast/data/sources/dicom_tags.py and busfast/data/sources/dicom_pixels.py, too.
"""

import io
import os
import stat
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.data.prepare import prepare
from busfast.data.sources import guess_source, read_source
from busfast.data.table import read_table
from busfast.errors import UserError

pydicom = pytest.importorskip("pydicom", minversion="3")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

NAME, PATIENT = "Doe^Jane", "123-45"


def dicom(path, pixels, syntax=ExplicitVRLittleEndian, data=None, report=False, **tags):
    """Writes a DICOM file of an array (H, W) or (H, W, 3), or of the given encoded pixel data."""
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


def test_a_palette_is_turned_into_rgb(tmp_path):
    tags = {}
    for color, values in (("Red", range(256)), ("Green", range(255, -1, -1)), ("Blue", [7] * 256)):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tags[f"{color}PaletteColorLookupTableData"] = bytes(values)
    seen = convert(tmp_path, RAMP8, PhotometricInterpretation="PALETTE COLOR", **tags)
    assert np.array_equal(seen, np.stack([RAMP8, 255 - RAMP8, np.full_like(RAMP8, 7)], axis=-1))


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
    file = dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=JPEGLosslessSV1, data=encapsulate([b"\xff\xd8\xff"]))
    if pydicom.pixels.get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder of JPEG Lossless is installed")
    message = refusal(tmp_path)
    assert str(file) in message and JPEGLosslessSV1.name in message and "pip install pylibjpeg" in message


def test_pixels_that_turn_out_broken_leave_nothing_behind(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, data=RAMP8.tobytes()[:40])
    assert "cannot be converted" in refusal(tmp_path)
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=JPEG2000Lossless, data=encapsulate([b"no JPEG at all"]))
    assert "cannot be" in refusal(tmp_path)


def test_several_frames_are_refused_by_file_and_number(tmp_path):
    file = dicom(tmp_path / "set" / "benign" / "a.dcm", RAMP8, NumberOfFrames=30, data=RAMP8.tobytes() * 30)
    assert f"{file} has 30 frames" in refusal(tmp_path)


def test_more_pixels_than_the_limit_are_refused_by_the_header(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, Rows=60_000, Columns=60_000)
    assert "60000 x 60000 pixels" in refusal(tmp_path)


def test_deflated_files_are_refused_for_they_may_unpack_to_anything(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", RAMP8, syntax=DeflatedExplicitVRLittleEndian)
    assert "Deflated" in refusal(tmp_path)


def test_color_of_16_bits_is_refused(tmp_path):
    dicom(tmp_path / "set" / "benign" / "a", COLORS.astype(np.uint16))
    assert "color of 16 bits" in refusal(tmp_path)


def test_a_broken_file_is_refused_by_name(tmp_path):
    file = dicom(tmp_path / "set" / "benign" / "a", RAMP8)
    whole = file.read_bytes()
    for broken in (whole[:136] + b"\xff" * 50, whole[:200], whole[:500]):
        file.write_bytes(broken)
        message = refusal(tmp_path)
        assert str(file) in message and "cannot be" in message


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
    assert pd.factorize(table.rows["patient"])[0].tolist() == [0, 0, 1, 1, 0, 0, 2, 2]  # an id in one file is its folder's
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
