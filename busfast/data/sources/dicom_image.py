"""A DICOM file as an image of Pillow, so that all that reads images reads DICOM as `prepare` renders it."""

from typing import Any

from PIL import Image, ImageFile

from busfast.data.sources.dicom_file import is_dicom, read_header
from busfast.data.sources.dicom_pixels import read_pixels


class DicomImage(ImageFile.ImageFile):
    """Reads the header at first, and the pixels when they are needed.

    Raises:
        SyntaxError: the file, a path or an open one, is not DICOM (Pillow's word for it).
        DicomError: the file gives no image, or has several frames.
    """

    format = "DICOM"

    def _open(self) -> None:
        if not is_dicom(self.fp):
            raise SyntaxError("not DICOM")
        header = read_header(self.fp)
        self._size = header.Columns, header.Rows
        self._mode = "L" if str(header.get("PhotometricInterpretation")).startswith("MONOCHROME") else "RGB"

    def load(self) -> Any:
        """Renders the pixels, and becomes a plain image of them, as a `StubImageFile` of Pillow does."""
        image = Image.fromarray(read_pixels(self.fp))
        if self._exclusive_fp:
            self.fp.close()
        self.__class__, self.__dict__ = image.__class__, image.__dict__  # type: ignore[assignment]
        return image.load()
