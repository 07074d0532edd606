"""Renders the pixels of a DICOM file as a viewer shows them: 8-bit gray or color."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from busfast.data.sources.dicom_tags import PLUGINS, need_pydicom, quiet
from busfast.errors import UserError


def convert_dicom(source: Path, target: Path) -> None:
    """Writes the image in a DICOM file of one frame as PNG, without any metadata."""
    pydicom = need_pydicom()
    syntax, advice = "unknown", ""
    try:
        with quiet():
            dataset = pydicom.dcmread(source)
            syntax = dataset.file_meta.TransferSyntaxUID.name
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                advice = f"For JPEG, other decoders may help: {PLUGINS}. Or export it uncompressed. "
            pixels = render(dataset)
    except Exception as error:  # decoders raise nearly anything
        raise UserError(f"{source} cannot be converted ({type(error).__name__}: {error}; transfer syntax: {syntax}). "
                        f"{advice}Export it again, or remove it. Nothing was written.") from error
    Image.fromarray(pixels).save(target, format="PNG")


def render(dataset: Any) -> np.ndarray:
    """Maps stored values to displayed ones, 8-bit gray or RGB: modality LUT or rescale, then VOI LUT or the first
    window.

    With neither of the latter, gray of more than 8 bits is stretched from its darkest to its brightest value, as in
    `read_image`. ValueError if the photometric interpretation is unknown, or a value not finite.

    Source: DICOM PS3.3, C.11.1 (modality LUT), C.11.2 (VOI LUT) and C.7.6.3.1.2 (photometric interpretation).
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    values = pixel_array(dataset)  # converts YBR_FULL and YBR_FULL_422 to RGB
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colors = apply_color_lut(values, dataset)
        return colors if colors.dtype == np.uint8 else (colors >> 8).astype(np.uint8)
    if kind in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"):
        return np.ascontiguousarray(values.astype(np.uint8))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {kind} is not supported")
    # as float64: integers of 8 or 16 bits would overflow below
    values, low, high = _to_window(apply_modality_lut(values, dataset).astype(np.float64), dataset)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinite numbers")
    scaled = (values - low) * (255.0 / (high - low) if high != low else 0.0)
    gray = np.round(scaled.clip(0, 255)).astype(np.uint8)
    return 255 - gray if kind == "MONOCHROME1" else gray


def _to_window(values: np.ndarray, dataset) -> tuple[np.ndarray, float, float]:
    """Applies the VOI LUT or the first window; returns the values, and those of black and white."""
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        entries, first, bits = dataset.VOILUTSequence[0].LUTDescriptor
        if bits == 8:  # pydicom would count the entries in 8 bits, but there may be more
            dataset.VOILUTSequence[0].LUTDescriptor = [entries, first, 16]
        return apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64), 0, 2**bits - 1
    if None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        # pydicom's output range depends on several tags; two values far outside the window reveal it.
        ends = np.array([-1e9, 1e9])
        with np.errstate(over="ignore"):
            shown = apply_windowing(np.append(values.ravel(), ends), dataset)
        return shown[:-2].reshape(values.shape), shown[-2], shown[-1]
    inside = values[~_padding(values, dataset)]
    low, high = (inside.min(), inside.max()) if inside.size else (values.min(), values.max())
    if dataset.BitsStored <= 8 and low >= 0 and high <= 255:
        return values, 0, 255
    return values, low, high


def _padding(values: np.ndarray, dataset) -> np.ndarray:
    """Returns where pixels are padding (PixelPaddingValue, PixelPaddingRangeLimit), which must not affect the range."""
    from pydicom.pixels import apply_modality_lut

    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(values.shape, dtype=bool)
    ends = np.array([end for end in ends if end is not None], dtype=np.int64)
    ends = apply_modality_lut(ends, dataset).astype(np.float64)
    return (values >= ends.min()) & (values <= ends.max())
