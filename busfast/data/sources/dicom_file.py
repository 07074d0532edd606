"""A DICOM file in whatever form devices write it -> pydicom's data set, or why it gives no image.

Imports nothing of busfast that reads images, since `busfast.data.images` asks here.
"""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from busfast.errors import UserError
from busfast.text import counted, listed, plain_text

PLUGINS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
NO_IMAGE = "no image, but a report, an index or the like"
CLIP = "several frames (prepare makes images of some: --frames=middle, or first, all, every:N)"
ONLY_HEADER = "only a header, without pixels (export again)"
DAMAGED = "damaged (export again)"
COMPRESSED = f"in a compression whose decoder is not installed ({PLUGINS}, or export them uncompressed)"
UNKNOWN = "in a transfer syntax that pydicom cannot decode (export them uncompressed)"
# Without a preamble: the first element is of group 2 or 8, explicit (two capitals), implicit (a short length) or,
# explicit, in big endian.
BARE = re.compile(rb"[\x02\x08]\0.\0(?:[A-Z]{2}|.\0\0\0)|\0\x08\0.[A-Z]{2}", re.DOTALL)
DEFLATED = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"  # the transfer syntax as it stands in a file
MOST_UNPACKED = 400_000_000  # bytes of a deflated file, which may become a thousand times as large
HEADER = ("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated",
          "PhotometricInterpretation")


class DicomError(ValueError):
    """Why a DICOM file gives no image: a reason, which other files may share, and what only this one has."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Refused:
    """DICOM files that give no image, by reason."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}

    def add(self, name: str, error: DicomError) -> None:
        """Adds a file."""
        names, text = self.files.setdefault(error.reason, []), f"{name} ({error.detail})" if error.detail else name
        if text not in names[-1:]:  # frames of one file
            names.append(text)

    def lines(self) -> list[str]:
        """Returns a line for each reason, with the files."""
        return [f"{counted(len(names), 'DICOM file')}, {reason}: {listed(names)}"
                for reason, names in self.files.items()]

    def refuse(self, where: str = "") -> None:
        """Raises UserError about all of them at once, if there are any."""
        if self.files:
            number = counted(sum(map(len, self.files.values())), "DICOM file")
            raise UserError("\n  ".join([f"{where}{number} cannot be used:", *self.lines()]) +
                            "\nprepare --partial leaves such files out; audit lists each. Nothing was written.")


def is_dicom(source: str | Path | BinaryIO) -> bool:
    """Returns whether a file is DICOM, by its content: the letters DICM after a preamble; or, without one, elements
    that describe an image or name a class of DICOM objects."""
    try:
        with _open(source) as file:
            start = file.read(132)
            if start[128:] == b"DICM" or not BARE.match(start):
                return start[128:] == b"DICM"
            header = _parse(_unpack(file), stop_before_pixels=True, specific_tags=list(HEADER))
            return str(header.get("SOPClassUID", "")).startswith("1.2.840.10008.") or all(
                header.get(tag) for tag in ("Rows", "Columns", "PhotometricInterpretation"))
    except Exception:  # whatever pydicom makes of a file that is none
        return False


def is_dicom_image(path: str | Path) -> bool:
    """Returns whether a file is DICOM, and not a report, an index or the like; damaged images count."""
    try:
        return is_dicom(path) and bool(read_header(path, clips=True))
    except DicomError as error:
        return error.reason != NO_IMAGE


def read_header(source: str | Path | BinaryIO, tags: Sequence[str] = (), *, clips: bool = False) -> Any:
    """Reads the elements before the pixels that say what they are, and `tags`; `NumberOfFrames` is a number.

    Raises:
        DicomError: the file gives no image, as far as the header tells; unless `clips`, one of several frames, too.
        UserError: pydicom is absent.
    """
    try:
        with _open(source) as packed:
            file = _unpack(packed)
            header = _parse(file, stop_before_pixels=True, specific_tags=[*HEADER, *tags])
            for tag in tags:
                header.get(tag)  # converts the value, which may fail
            header.NumberOfFrames = max(1, int(header.get("NumberOfFrames") or 1))
            _check(header, pixels=bool(file.read(1)), size=file.seek(0, 2), clips=clips)
            return header
    except (DicomError, UserError, OSError):
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise DicomError(DAMAGED, type(error).__name__) from error


def _check(header: Any, *, pixels: bool, size: int, clips: bool) -> None:
    """Raises DicomError if a header, that of a file of `size` bytes, tells that there is no image."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    wide, high, bits = header.get("Columns"), header.get("Rows"), header.get("BitsAllocated") or 1
    if not (wide and high) and "Image Storage" not in getattr(kind, "name", ""):
        raise DicomError(NO_IMAGE, kind.name) if kind else DicomError(DAMAGED)
    if not (wide and high and pixels):
        raise DicomError(ONLY_HEADER)
    limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS  # as in `busfast.data.images`, which asks here
    if limit and wide * high * max(1, bits // 8) > limit:  # by memory: of 16 bits, half as many
        raise DicomError(f"more pixels than the limit of {limit:,}, of 8 bits (remove or shrink; or --max_pixels)",
                         f"{wide} x {high} pixels of {bits} bits")
    if header.NumberOfFrames * 8 > size:
        raise DicomError(DAMAGED, f"claims {header.NumberOfFrames} frames")
    if missing := _missing_decoder(header.file_meta.TransferSyntaxUID):
        raise DicomError(missing, plain_text(header.file_meta.TransferSyntaxUID.name))
    if header.NumberOfFrames > 1 and not clips:
        raise DicomError(CLIP, f"{header.NumberOfFrames} frames")


def read_dicom(source: str | Path | BinaryIO) -> Any:
    """Reads a whole file; raises as `read_header`, but checks nothing."""
    with _open(source) as file:
        return _parse(_unpack(file))


@contextmanager
def _open(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """Opens a file at its start; one that is open already stays so."""
    if not isinstance(source, str | Path):
        source.seek(0)
        yield source
        return
    with open(source, "rb") as file:
        yield file


def _unpack(file: BinaryIO) -> BinaryIO:
    """Returns a file as it is, or what is in it if it is deflated."""
    file.seek(0)
    start = file.read(1000)
    file.seek(0)
    if DEFLATED not in start:
        return file
    group = 132 if start[128:132] == b"DICM" else 0  # the one that says so, not deflated; it begins with its length
    file.seek(group + 12 + int.from_bytes(start[group + 8:group + 12], "little"))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(file.read(), MOST_UNPACKED)
    except zlib.error as error:
        raise DicomError(DAMAGED, str(error)) from error
    if unpacker.unconsumed_tail:
        raise DicomError(f"deflated, and larger than {MOST_UNPACKED / 1e6:.0f} MB (export it uncompressed)")
    return BytesIO(content)


def _parse(file: BinaryIO, **options: Any) -> Any:
    """Reads a data set with pydicom; one that does not name its transfer syntax gets that in which it was read."""
    pydicom = need_pydicom()
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        dataset = pydicom.dcmread(file, force=True, **options)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else \
                ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        return dataset
    except Exception as error:  # as above; the message would quote the file
        raise DicomError(DAMAGED, type(error).__name__) from error


def _missing_decoder(syntax: Any) -> str:
    """Returns why a transfer syntax cannot be decoded here; "" if it can."""
    from pydicom.pixels import get_decoder

    try:
        return "" if get_decoder(syntax).is_available else COMPRESSED
    except NotImplementedError:
        return UNKNOWN


def need_pydicom() -> ModuleType:
    """Returns pydicom, silenced, since its messages quote the contents of files; or raises UserError with the command
    that installs it."""
    try:
        import pydicom
        import pydicom.pixels  # new in pydicom 3
    except ImportError:
        raise UserError("DICOM files need pydicom 3 or newer: pip install 'pydicom>=3'") from None
    # Not for a while: files are read in threads, which would undo each other's settings.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom
