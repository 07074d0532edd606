"""What busfast takes from a DICOM file besides its pixels: a pseudonym of the patient, and a tag for the center."""

import logging
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from PIL import Image

from busfast.data.sources.common import Options
from busfast.errors import UserError, suggest
from busfast.progress import progress

# Text of one value; without names of persons (PN).
TEXT = ("AE", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UT")
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
PLUGINS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


class Tags(NamedTuple):
    """What is read from the DICOM files of a source."""

    patients: dict[str, str]  # file -> id of its patient; "" if the file has none
    centers: dict[str, str]  # file -> text of the tag that names the center
    others: list[str]  # DICOM files without an image
    notes: list[str]  # for the user


def is_dicom(path: Path) -> bool:
    """Returns whether a file is DICOM, by the four letters after its preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_tags(root: Path, names: list[str], options: Options) -> Tags:
    """Reads the headers of DICOM files in `root`; UserError if one cannot be converted to an image. A patient's id is a
    keyed hash of the PatientID, 12 hexadecimal digits: nobody without the key can find it by trying all PatientIDs.
    """
    if not names:
        return Tags({}, {}, [], [])
    pydicom = need_pydicom()
    if options.center_tag:
        check_center_tag(options.center_tag)
    wanted = ["PatientID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsStored", "BurnedInAnnotation",
              *filter(None, [options.center_tag])]
    key = options.key or secrets.token_bytes(32)
    tags, frames, burned = Tags({}, {}, [], []), [], 0
    for name in progress(names, "reading DICOM"):
        try:
            with quiet():
                header = pydicom.dcmread(root / name, stop_before_pixels=True, specific_tags=wanted)
                values = [str(header.get(tag, "")).strip() for tag in ("PatientID", options.center_tag or "Rows")]
                count = int(header.get("NumberOfFrames") or 1)
                kind = header.file_meta.MediaStorageSOPClassUID.name
                if "Image Storage" in kind and not (header.get("Rows") and header.get("Columns")):
                    raise ValueError("an image without pixels")
        except Exception as error:  # a damaged file raises nearly anything
            raise UserError(f"{root / name} cannot be read as DICOM ({type(error).__name__}). "
                            "Export it again, or remove it.") from error
        if not header.get("Rows") or not header.get("Columns"):
            tags.others.append(name)  # a report, a directory, a presentation state
            continue
        if count > 1:
            frames.append((name, count))
            continue
        _check_pixels(root / name, header)
        burned += header.get("BurnedInAnnotation", "") == "YES"
        tags.patients[name] = blake2b(values[0].encode(), key=key, digest_size=6).hexdigest() if values[0] else ""
        tags.centers[name] = values[1] if options.center_tag else ""
    if frames:
        raise UserError(f"{root / frames[0][0]} has {frames[0][1]} frames ({len(frames)} of {len(names)} DICOM files "
                        "have several), but busfast reads single images. Export single frames, or remove these files.")
    tags.notes.extend(_notes(tags, burned))
    return tags


def _notes(tags: Tags, burned: int) -> list[str]:
    notes = [] if not tags.patients else [
        "of the DICOM files, only pixels, a hash of the PatientID and the tag for the center, if named, are used; text "
        "burned into the pixels stays" + (f", and {burned} files declare some (BurnedInAnnotation)" if burned else "")]
    if nameless := sum(not patient for patient in tags.patients.values()):
        notes.append(f"{nameless} of {len(tags.patients)} DICOM files have an empty PatientID, so no patient id")
    if tags.others:
        notes.append(f"{len(tags.others)} DICOM files hold no image (e.g. '{tags.others[0]}') and are left out")
    return notes


def _check_pixels(path: Path, header) -> None:
    from pydicom.pixels import get_decoder

    pixels, limit = header.Rows * header.Columns, Image.MAX_IMAGE_PIXELS
    if limit and pixels > limit:
        raise UserError(f"{path} claims {header.Columns} x {header.Rows} pixels; the limit is {limit:,} in total. "
                        "Remove it if it is damaged, or make it smaller.")
    if header.get("SamplesPerPixel", 1) > 1 and header.get("BitsStored", 8) > 8:
        raise UserError(f"{path} is color of {header.BitsStored} bits per channel. Export it as 8-bit color.")
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    try:
        decodable = bool(syntax) and syntax not in DEFLATED and get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise UserError(f"{path} has the transfer syntax {getattr(syntax, 'name', '') or 'none'} ({syntax}), which "
                        f"cannot be decoded here. For JPEG: {PLUGINS}. Or export it uncompressed.")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings of pydicom, which quote the contents of files."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def need_pydicom() -> ModuleType:
    """Returns pydicom, or raises UserError with the command that installs it."""
    try:
        import pydicom
        import pydicom.pixels  # new in pydicom 3
    except ImportError:
        raise UserError("DICOM files need pydicom 3 or newer: pip install 'pydicom>=3'.") from None
    return pydicom


def check_center_tag(keyword: str) -> None:
    """Raises UserError if a DICOM keyword is unknown, or its value cannot name a center."""
    from pydicom.datadict import dictionary_VR, keyword_dict

    if keyword not in keyword_dict:
        raise UserError(f"DICOM has no tag with the keyword '{keyword}' (center_tag).{suggest(keyword, keyword_dict)} "
                        "Examples: InstitutionName, StationName, Manufacturer.")
    if "Patient" in keyword or dictionary_VR(keyword_dict[keyword]) not in TEXT:
        raise UserError(f"The DICOM tag {keyword} (center_tag) may reveal who the patient is, or is not text. Name one "
                        "that says where the image comes from, such as InstitutionName.")
