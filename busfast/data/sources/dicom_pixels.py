"""Renders the pixels of a DICOM file as a viewer shows them: 8-bit gray or color."""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from busfast.data.sources.dicom_file import DAMAGED, PLUGINS, DicomError, read_dicom

UNDECODED = f"in a compression, and damaged or for other decoders ({PLUGINS})"
JPEG_2000 = [f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)]
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def convert_dicom(source: Path, target: Path, frame: int | None = None) -> None:
    """Writes the image in a DICOM file, or a frame of a clip, as PNG, without any metadata; DicomError if it cannot."""
    Image.fromarray(read_pixels(source, frame)).save(target, format="PNG")


def read_pixels(source: str | Path | BinaryIO, frame: int | None = None) -> np.ndarray:
    """Returns the pixels of a DICOM file, or of a frame of a clip, as `render`; DicomError if they cannot be decoded.
    The header must have been checked (`read_header`)."""
    if frame is None:
        dataset = read_dicom(source)
    else:
        dataset = _last_clip(source, os.stat(cast(Path, source)).st_mtime_ns)
    try:
        return render(dataset, frame or 0)
    except Exception as error:  # decoders raise nearly anything
        syntax, text = dataset.file_meta.TransferSyntaxUID, shorten(str(error), 150) or type(error).__name__
        if syntax.is_compressed:
            raise DicomError(UNDECODED, f"{syntax.name}: {text}") from error
        raise DicomError(DAMAGED, text) from error


@lru_cache(maxsize=1)
def _last_clip(source: Any, _modified: int) -> Any:
    """Keeps the last clip, whose frames follow each other."""
    return read_dicom(source)


def render(dataset: Any, frame: int = 0) -> np.ndarray:
    """Maps stored values to displayed ones, 8-bit gray or RGB: modality LUT or rescale, then VOI LUT or the first
    window; or the palette.

    With neither of the latter, gray of more than 8 bits is stretched from its darkest to its brightest value, as in
    `read_image`; color of more than 8 bits, and gray of fewer, from 0 to the largest number of that many bits. A window
    narrower than DICOM allows is none. ValueError if the photometric interpretation is unknown, or a value not finite.

    Source: DICOM PS3.3, C.11.1 (modality LUT), C.11.2 (VOI LUT) and C.7.6.3.1.2 (photometric interpretation).
    """
    from pydicom.pixels import pixel_array

    if dataset.file_meta.TransferSyntaxUID in JPEG_2000:
        _check_boxes(dataset, frame)
    values = pixel_array(dataset, index=frame)  # converts YBR_FULL and YBR_FULL_422 to RGB
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind = dataset.PhotometricInterpretation.strip().upper()
    if kind == "PALETTE COLOR":
        tables, first = _palette(dataset)
        return np.stack([_map(values, partial(_look_up, table=table, first=first)) for table in tables.T], axis=-1)
    if kind in COLORS:
        return np.ascontiguousarray(_map(values, partial(_to_8_bits, bits=dataset.BitsStored)))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {kind} is not supported")
    gray = _map(values, partial(_to_gray, dataset=dataset))
    return 255 - gray if kind == "MONOCHROME1" else gray


def _check_boxes(dataset: Any, frame: int) -> None:
    """Raises ValueError for a box of no length before the JPEG 2000 of a frame, at which pydicom would read forever."""
    from pydicom.encaps import get_frame

    data, offset = get_frame(dataset.PixelData, frame, number_of_frames=int(dataset.get("NumberOfFrames") or 1)), 12
    while data.startswith(b"\0\0\0\x0cjP  ") and offset < len(data) and data[offset + 4:offset + 8] != b"jp2c":
        length = int.from_bytes(data[offset:offset + 4], "big")
        if not length:
            raise ValueError("a box of length 0 in JPEG 2000")
        offset += length


def _map(values: np.ndarray, show: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Applies a function to the values of an image: of up to 16 bits, to each value that occurs once, which takes a
    fraction of time and memory."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return show(values)
    indices = values.view(f"u{values.dtype.itemsize}")
    seen = np.zeros(256**values.dtype.itemsize, dtype=bool)
    seen[indices] = True
    table = np.zeros(len(seen), dtype=np.uint8)
    table[seen] = show(np.flatnonzero(seen).astype(indices.dtype).view(values.dtype).astype(np.int64))
    return table[indices]


def _to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Scales colors; those of 8 bits in more are taken as they are."""
    most = 255 if bits > 8 and values.max() <= 255 else 2**bits - 1
    return np.round(values * (255 / most)).clip(0, 255).astype(np.uint8)


def _look_up(values: np.ndarray, table: np.ndarray, first: int) -> np.ndarray:
    return table[(values - first).clip(0, len(table) - 1)]


def _palette(dataset: Any) -> tuple[np.ndarray, int]:
    """Returns the colors of a palette, uint8 (N, 3), and the value that stands for the first of them. Values of 8 bits
    in entries of 16 are taken as they are."""
    from pydicom.pixels import apply_color_lut

    entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    entries, tables = entries or 65536, []
    if "RedPaletteColorLookupTableData" not in dataset:  # in segments
        tables = [apply_color_lut(first + np.arange(entries), dataset)[:, :3]]
    for color in ("Red", "Green", "Blue") if not tables else ():
        data = dataset[f"{color}PaletteColorLookupTableData"].value
        if not dataset.file_meta.TransferSyntaxUID.is_little_endian:  # words of 16 bits, even of entries of 8
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
        tables.append(np.frombuffer(data, "<u2" if len(data) >= 2 * entries else np.uint8, count=entries)[:, None])
    colors = np.concatenate(tables, axis=1)
    return (colors if colors.max() <= 255 else colors >> 8).astype(np.uint8), first


def _to_gray(values: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in dataset and dataset[name].value is None:  # an empty element is none
            del dataset[name]
    values, low, high = _to_window(apply_modality_lut(values, dataset).astype(np.float64), dataset)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinite numbers")
    values = (values - low) * (255.0 / (high - low) if high != low else 0.0)
    return np.round(values.clip(0, 255)).astype(np.uint8)


def _to_window(values: np.ndarray, dataset: Any) -> tuple[np.ndarray, float, float]:
    """Applies the VOI LUT or the first window; returns the values, and those of black and white."""
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence") and dataset.VOILUTSequence[0].get("LUTData") is not None:
        entries, first, bits = dataset.VOILUTSequence[0].LUTDescriptor
        # pydicom would count the entries in 8 bits if they are of 8, and it knows not all other numbers
        dataset.VOILUTSequence[0].LUTDescriptor = [entries, first, 16]
        shown = apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64)
        dataset.VOILUTSequence[0].LUTDescriptor = [entries, first, bits]
        return shown, 0, 2**bits - 1
    if has_window(dataset):
        if dataset.get("VOILUTFunction") not in ("LINEAR_EXACT", "SIGMOID"):
            dataset.VOILUTFunction = "LINEAR"
        for name, value in (("BitsStored", 16), ("PixelRepresentation", 0)):
            if name not in dataset:  # of floats
                setattr(dataset, name, value)
        # pydicom's output range depends on several tags; two values far outside the window reveal it.
        ends = np.array([-1e9, 1e9])
        with np.errstate(over="ignore"):
            shown = apply_windowing(np.append(values.ravel(), ends), dataset)
        return shown[:-2].reshape(values.shape), shown[-2], shown[-1]
    inside = values[~_padding(values, dataset)]
    low, high = (inside.min(), inside.max()) if inside.size else (values.min(), values.max())
    bits = dataset.get("BitsStored", 32)  # of floats, there is none
    if bits <= 8 and low >= 0 and high <= 255:
        return values, 0, 255 if high >= 2**bits or "ModalityLUTSequence" in dataset else 2**bits - 1
    return values, low, high


def has_window(dataset: Any) -> bool:
    """Returns whether the first window of a data set is one: wide enough, with a center."""
    center, width = (dataset.get(name) for name in ("WindowCenter", "WindowWidth"))
    width = width if isinstance(width, int | float) or width is None else next(iter(width), None)
    exact = dataset.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID")
    return center is not None and width is not None and (width > 0 if exact else width >= 1)


def _padding(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Returns where pixels are padding (PixelPaddingValue, PixelPaddingRangeLimit), which must not affect the range."""
    from pydicom.pixels import apply_modality_lut

    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(values.shape, dtype=bool)
    ends = np.array([end for end in ends if end is not None], dtype=np.int64)
    ends = apply_modality_lut(ends, dataset).astype(np.float64)
    return (values >= ends.min()) & (values <= ends.max())
