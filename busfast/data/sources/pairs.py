"""Which files are masks of which images: NAME_mask.png beside NAME.png, or NAME.png in a folder masks."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from busfast.data.sources.masks import is_drawn
from busfast.text import counted

# What is added to the name of an image, or names a folder. Of the first kind a file is a mask though its image lacks;
# the second kind may also be a marked copy or a crop, and the pixels decide.
SURE = ("mask", "masks", "msk", "segmentation", "segmentations", "groundtruth")
LIKELY = ("seg", "segs", "segm", "segmented", "gt", "label", "labels", "annotation", "annotations", "annotated",
          "tumor", "tumors", "tumour", "tumours", "lesion", "lesions", "roi", "rois", "contour", "contours", "outline",
          "outlines", "overlay", "superpixels")
FOLDERS = (*SURE, "seg", "segs", "gt", "annotation", "annotations")  # words in the names of folders of masks
WHOLE = ("label", "labels", "roi", "rois", "contour", "contours")  # whole names of such folders
IMAGES = ("image", "images", "img", "imgs")
SAMPLE = 8  # files looked into, or up to twice as many, to know what a kind of name means
GAP = r"[\s_.()\[\]-]"
BARE = re.compile(rf"^({'|'.join(IMAGES)}|orig|original){GAP}+(?=.)|(?<=.){GAP}+({'|'.join(IMAGES)}|orig|original)$")
IN_FOLDER = re.compile(rf"{GAP}*({'|'.join(sorted(FOLDERS, reverse=True))}){GAP}*", re.IGNORECASE)
ALONE = re.compile(rf".+{GAP}({'|'.join(SURE)}){GAP}*\d*{GAP}*", re.IGNORECASE | re.DOTALL)


class Pairs(NamedTuple):
    """Images and their masks."""

    masks: dict[str, tuple[str, ...]]  # image -> its masks, in the order of the files
    orphans: list[str]  # masks without an image
    notes: list[str]  # for the user: what the pixels decided


def pair_masks(names: Sequence[str], root: Path | None = None) -> Pairs:
    """Tells masks from images by their names (paths with /): a stem that extends another's by a word such as `mask`,
    or a file in a folder such as `masks` with the name of an image.

    Where the name is not telling enough, the pixels of a few files in `root` decide whether all files with the same
    addition are masks; without `root` they are masks if the word is known, else images.
    """
    inside = {name: folder for name in names if (folder := _mask_folder(name))}
    places = {name: _place(name) for name in names}
    images: dict[tuple[str, str], str] = {}
    stems: dict[str, list[str]] = {}
    of: dict[str, str] = {}  # what may be a mask -> its image
    unsure: dict[tuple[str, ...], list[str]] = {}  # what is added to the names of images -> files
    twins: dict[tuple[str, str], list[tuple[str, str]]] = {}  # two suffixes -> files that differ only in them
    orphans, sure = [], set()
    for name in (name for name in names if name not in inside):
        if (first := images.setdefault(places[name], name)) == name:
            stems.setdefault(places[name][1], []).append(name)
            if (bare := BARE.sub("", places[name][1])) != places[name][1]:  # image_1.png with mask_1.png
                stems.setdefault(bare, []).append(name)
                images.setdefault((places[name][0], bare), name)
        elif root:
            twins.setdefault((PurePosixPath(first).suffix, PurePosixPath(name).suffix), []).append((first, name))
    for pairs in twins.values():
        drawn = [are_drawn(root, files) for files in zip(*pairs, strict=True)]
        if drawn[0] != drawn[1]:  # a.jpg and its mask a.png
            of |= {pair[drawn.index(True)]: pair[drawn.index(False)] for pair in pairs}
    for name in sorted(names, key=lambda name: len(places[name][1])):  # a mask before a mask of a mask
        folder, stem = places[name]
        starts = [stem, *_starts(stem)]
        if name in inside:
            # In folders of another structure, a name that occurs once is that image.
            here = [images[place, start] for start in starts for place in (folder, _place(name, twin=True)[0])
                    if (place, start) in images]
            image = here or next((stems[start] for start in starts if start in stems), [])
            if here or len(image) == 1:
                of[name] = image[0]
                if not {*(words := _words(PurePosixPath(inside[name]).name))} & {*SURE, "seg", "segs", "gt"}:
                    unsure.setdefault(words, []).append(name)
        elif name not in of:
            base, words = next(((start, words) for start in starts[1:] if (folder, start) in images
                                and (words := _words(stem[len(start):] if stem.startswith(start)
                                                           else stem[:-len(start)]))), ("", ()))
            if base:
                of[name] = images[folder, base]
                if of[name] in sure or {*words} & {*SURE}:
                    sure.add(name)
                else:
                    unsure.setdefault(words, []).append(name)
            elif ALONE.fullmatch(stem):
                orphans.append(name)
    matched = {inside[name] for name in inside if name in of}
    rest: dict[str, list[str]] = {}
    for name, folder in inside.items():
        if name not in of:
            rest.setdefault(folder, []).append(name)
    for folder, files in rest.items():  # where no file is a mask of an image, a folder may be a class: with_mask
        if folder in matched or stems and is_mask_folder(PurePosixPath(folder).name, exact=True) or \
                root and are_drawn(root, files):
            orphans += files
    notes, copies, others = [], [], []
    for words, files in unsure.items():
        known = bool({*words} & {*LIKELY})
        if known if root is None else are_drawn(root, files) and \
                (known or not are_drawn(root, [of[name] for name in files])):  # among drawn images it tells nothing
            continue
        for name in files:
            del of[name]
        (copies if known else others).extend(files)
    if copies:
        notes.append(f"{counted(len(copies), 'file')} named like masks of images are pictures themselves, so marked "
                     f"copies or parts of those, and left out, e.g. '{copies[0]}'")
    if others:
        notes.append(f"{counted(len(others), 'file')} named like an image with something added are taken for images, "
                     f"e.g. '{others[0]}'. If they are no pictures of their own, move them away")
    no_images = {*of, *orphans, *copies}
    masks: dict[str, list[str]] = {name: [] for name in names if name not in no_images}
    for name in names:
        image = of.get(name, "")
        while image in of:
            image = of[image]
        if image in masks:
            masks[image].append(name)
    return Pairs({image: tuple(found) for image, found in masks.items()}, sorted(orphans), notes)


@cache
def is_mask_folder(name: str, exact: bool = False) -> bool:
    """Returns whether a folder is called like one of masks: with a word for them in it, or (`exact`) just that."""
    words = _words(name)
    return len(words) == 1 and words[0] in (*FOLDERS, *WHOLE) or not exact and bool({*words} & {*FOLDERS})


def is_image_folder(name: str) -> bool:
    """Returns whether a folder's name says only that it holds images."""
    return name.casefold() in IMAGES


def _mask_folder(name: str) -> str:
    """Returns the path of the first folder of masks above a file; "" if there is none."""
    parts = PurePosixPath(name).parts
    return next(("/".join(parts[:index + 1]) for index, part in enumerate(parts[:-1]) if is_mask_folder(part)), "")


def _place(name: str, twin: bool = False) -> tuple[str, str]:
    """Returns the folder of a file, without those that only part images from masks, and its stem; to be compared. Of a
    folder benign_mask the `twin` is benign."""
    path = PurePosixPath(name)
    folder = "/".join(filter(None, (
        part if not is_image_folder(part) and not is_mask_folder(part) else twin and IN_FOLDER.sub("", part)
        for part in path.parts[:-1])))
    stem = path.name if path.suffix[1:].isdigit() else path.stem  # DICOM files are often called 1.2.840.113619.2
    return _plain(folder), _plain(stem)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def are_drawn(root: Path, files: Sequence[str]) -> bool:
    return all(is_drawn(root / name) for name in files[::max(1, len(files) // SAMPLE)])


def _starts(stem: str) -> list[str]:
    """Returns what a stem may extend, longest first: its starts up to a gap, and, after a word for masks, its end."""
    ends = [stem[:match.start()] for match in re.finditer(GAP, stem)]
    starts = {*ends, *(end.rstrip(" _.-([") for end in ends)} - {""}
    if match := re.match(rf"({'|'.join((*SURE, *LIKELY))}){GAP}+(?=.)", stem):
        starts.add(stem[match.end():])
    return sorted(starts, key=len, reverse=True)


def _words(text: str) -> tuple[str, ...]:
    """Returns the words of a name, without digits, in lower case: LungMasks_2 is lung, masks."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"ground[\s_-]*truth", "groundtruth", text, flags=re.IGNORECASE))
    return tuple(word.casefold() for word in re.findall(r"[^\W\d_]+", text))


def cell(masks: tuple[str, ...]) -> str | tuple[str, ...]:
    """Returns the cell of a table for the masks of an image: "", one path, or several to be joined."""
    return masks if len(masks) > 1 else "".join(masks)
