"""Finds the file that a table names where its path is written otherwise than the file is called.

Systems differ in the capitals and the Unicode form of names, tables name images without ending or folders, and a set
lies elsewhere than when its table was written.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from busfast.data.images import SUFFIXES

ENDINGS = (*SUFFIXES, ".dcm", ".dicom")
# Folders of masks; images_and_masks is none.
MASKS = re.compile(r"(?!.*[\W_](and|with)[\W_])(.*[\W_])?(masks?|annotations?|segmentations?|labels?|gt|"
                   r"ground[\W_]?truths?)", re.IGNORECASE)
MOST = 16  # paths remembered of a name; a name that more have says nothing


class Finder:
    """Finds which path somebody means who wrote it with other capitals, another ending or none, in another Unicode
    form, with a backslash for /, with folders in front that are not there, or without those that are."""

    def __init__(self, paths: Iterable[str], *, by_name: bool = False):
        """Remembers `paths` (with /). `by_name`: where the folders differ, the name of the file decides."""
        self.by_name = by_name
        self.below: dict[str, list[str]] = {}  # each end of a path, as `path_key` writes it -> the paths that have it
        for path in paths:
            key = path_key(path)
            while key:
                if len(found := self.below.setdefault(key, [])) < MOST:
                    found.append(path)
                key = key.partition("/")[2]

    def __call__(self, written: str, *, masks: bool = False) -> list[str]:
        """Returns the paths that are nearest to what was written: none, one, or several that may be meant. Folders
        called masks or the like that were not written hold no images, and hold the `masks` if there are any."""
        parts, found = _composed(written).split("/"), self._candidates(path_key(written))
        if not self.by_name:
            of_masks = [path for path in found if any(map(MASKS.fullmatch, path.split("/")[:-len(parts)]))]
            found = of_masks or found if masks else [path for path in found if path not in of_masks]
        ranks = [_distance(path, parts) for path in found]
        return [path for path, rank in zip(found, ranks, strict=True) if rank == min(ranks)]

    def _candidates(self, key: str) -> list[str]:
        found = self.below.get(key, [])
        while not found and "/" in key and not key.startswith("../"):  # without folders in front that are not there
            key = key.partition("/")[2]
            found = [path for path in self.below.get(key, []) if self.by_name or path_key(path) == key]
        return found


def files_below(root: Path) -> list[str]:
    """Returns the images and DICOM files below a folder, by their ending or none, as paths relative to it with /."""
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        paths += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in sorted(names)
                  if (name.lower().endswith(ENDINGS) or "." not in name) and not name.startswith(".")]
    return paths


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def path_key(path: str) -> str:
    """Returns what all writings of a path have in common."""
    path = _composed(path).casefold().removeprefix("./")
    return next((path.removesuffix(ending) for ending in ENDINGS if path.endswith(ending)), path)


def _distance(path: str, parts: list[str]) -> tuple[int, bool]:
    """Returns how far a path is from what was written: capitals, then endings; then folders that were left out."""
    own = _composed(path).split("/")
    ends = ["/".join(one[-min(len(own), len(parts)):]) for one in (own, parts)]
    return (0 if ends[0] == ends[1] else 1 if ends[0].casefold() == ends[1].casefold() else 2), len(own) > len(parts)
