"""What busfast takes from a DICOM file besides its pixels: a pseudonym of the patient, and a tag for the center."""

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from busfast.data.sources.common import Options
from busfast.data.sources.dicom_file import NO_IMAGE, DicomError, Refused, need_pydicom, read_header
from busfast.data.sources.dicom_file import is_dicom as is_dicom
from busfast.data.sources.dicom_pixels import has_window, read_pixels
from busfast.errors import UserError, suggest
from busfast.progress import progress
from busfast.text import counted

# Text of one value; without names of persons (PN).
TEXT = ("AE", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UT")


class Tags(NamedTuple):
    """What is read from the DICOM files of a source."""

    patients: dict[str, str]  # file -> id of its patient; "" if the file has none
    centers: dict[str, str]  # file -> text of the tag that names the center
    others: list[str]  # DICOM files without an image
    notes: list[str]  # for the user


def read_tags(root: Path, names: list[str], options: Options) -> Tags:
    """Reads the headers of DICOM files in `root`. A patient's id is a keyed hash of the PatientID, 12 hexadecimal
    digits: nobody without the key can find it by trying all PatientIDs. Without a key, patients are numbered.

    Raises:
        UserError: files that give no image, all at once. With `partial`, they are left out, as others; if only the
            table is read, they stay.
    """
    tags, refused, burned, odd, nameless = Tags({}, {}, [], []), Refused(), 0, 0, 0
    if not names:
        return tags
    need_pydicom()
    if options.center_tag:
        check_center_tag(options.center_tag)
    wanted = ["PatientID", "BurnedInAnnotation", "WindowCenter", "WindowWidth", "VOILUTFunction",
              *filter(None, [options.center_tag])]
    numbers: dict[str, int] = {}
    left = []
    for name in progress(names, "reading DICOM"):
        try:
            header = read_header(root / name, wanted, clips=bool(options.frames))
        except DicomError as error:
            if error.reason == NO_IMAGE:
                tags.others.append(name)
            elif options.files:
                refused.add(name, error)
                left.append(name)
            else:
                tags.patients[name] = tags.centers[name] = ""
            continue
        burned += header.get("BurnedInAnnotation", "") == "YES"
        odd += str(header.get("PhotometricInterpretation")).startswith("MONOCHROME") and not has_window(header) and \
            None not in (header.get("WindowCenter"), header.get("WindowWidth"))
        patient = str(header.get("PatientID") or "").strip()
        nameless += not patient
        if patient and options.key:
            patient = blake2b(patient.encode(), key=options.key, digest_size=6).hexdigest()
        elif patient:
            patient = f"dicom-{numbers.setdefault(patient, len(numbers) + 1)}"
        tags.patients[name] = patient
        tags.centers[name] = str(header.get(options.center_tag) or "").strip() if options.center_tag else ""
    if left and not options.partial:  # what only the pixels tell is said at once, too
        for name in progress(tags.patients, "decoding the other DICOM files"):
            try:
                read_pixels(root / name, 0 if options.frames else None)
            except DicomError as error:
                refused.add(name, error)
        refused.refuse(f"{root}: ")
    tags.notes.extend([*_notes(tags, burned, odd, nameless), *(f"left out: {line}" for line in refused.lines())])
    tags.others.extend(left)
    return tags


def _notes(tags: Tags, burned: int, odd: int, nameless: int) -> list[str]:
    notes = [] if not tags.patients else [
        "of the DICOM files, only pixels, an id made from the PatientID and the tag for the center, if named, are "
        "used; text burned into the pixels stays"
        + (f", and {burned} files declare some (BurnedInAnnotation)" if burned else "")]
    if nameless:
        notes.append(f"{nameless} of {len(tags.patients)} DICOM files have an empty PatientID, so no patient id")
    if odd:
        notes.append(f"{counted(odd, 'DICOM file')} with a window narrower than 1, which is none: shown from the "
                     "darkest to the brightest value")
    if tags.others:
        notes.append(f"{len(tags.others)} DICOM files hold no image (e.g. '{tags.others[0]}') and are left out")
    return notes


def check_center_tag(keyword: str) -> None:
    """Raises UserError if a DICOM keyword is unknown, or its value cannot name a center."""
    from pydicom.datadict import dictionary_VR, keyword_dict

    if keyword not in keyword_dict:
        raise UserError(f"DICOM has no tag with the keyword '{keyword}' (center_tag).{suggest(keyword, keyword_dict)} "
                        "Examples: InstitutionName, StationName, Manufacturer.")
    if "Patient" in keyword or dictionary_VR(keyword_dict[keyword]) not in TEXT:
        raise UserError(f"The DICOM tag {keyword} (center_tag) may reveal who the patient is, or is not text. Name one "
                        "that says where the image comes from, such as InstitutionName.")
