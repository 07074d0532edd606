"""The decoded cache: each image is decoded and resized once, and its pixels are kept on disk for later epochs and runs.

Pixels are looked up by a hash of the image's file, so that a changed image is never served from the cache.
"""

import json
import math
import os
import re
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from busfast.data.images import READING, load_pixels, open_image
from busfast.errors import UserError
from busfast.files import atomic, cache_folder, file_lock
from busfast.once import say
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.image_hashes import hash_images
from busfast.pipelines.prefetch import Unreadable, name_unreadable
from busfast.pipelines.shards import SUFFIX, Damaged, Shard, discard_shard, hash_bytes, open_shards, write_shard
from busfast.processes import cores
from busfast.progress import map_ahead, progress
from busfast.text import counted

# A killed build loses at most one shard, but each shard is an open file: IMAGES in each, and no more than SHARDS.
IMAGES, SHARDS = 1024, 64
SHARE = 0.5  # of the free disk space that cache=auto may use
MEMO = "hashes.jsonl"
GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Form:
    """The form in which images are kept.

    Attributes:
        meta: everything besides the file that determines the pixels, as JSON values; `size` is a length in pixels, or
            height and width, 0 for the file's own.
        load: path -> pixels, uint8 (height, width, 1 or 3).
        area: number of pixels of an image whose file is (width, height).
        gray: whether all images are kept in one channel.
    """

    meta: dict
    load: Callable[[str], np.ndarray]
    area: Callable[[int, int], float]
    gray: bool = False

    @property
    def size_text(self) -> str:
        """The size for messages."""
        return f"{_by(self.meta['size'])} px" if self.meta["size"] else "full size"


def image_form(image: ImagePipeline) -> Form:
    """Returns the form for an image pipeline: its resized pixels."""
    size, resize, channels = image.fit
    return Form(pixel_meta(image.fit), partial(load_pixels, size=size, resize=resize, channels=channels),
                lambda width, height: math.prod(image.sides), channels == "gray")


class Pixels:
    """The pixels of a set of images, from the cache; `numbers`: path -> index, counted through all shards; `resident`:
    device -> what `busfast.pipelines.resident` has moved there."""

    def __init__(self, form: Form, shards: list[Shard], numbers: dict[str, int]):
        self.form, self.shards, self.numbers = form, shards, numbers
        self.resident: dict = {}
        self._starts = [0, *accumulate(map(len, shards))]
        self._damaged: set[Path] = set()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        """The largest height, width and number of channels."""
        return tuple(max(sides) for sides in zip(*(shard.shape for shard in self.shards), strict=True))

    def read(self, path: str) -> np.ndarray:
        """Returns uint8, (height, width, 1 or 3), equal to `form.load`; an image of a damaged shard is decoded."""
        number = self.numbers[path]
        index = bisect_right(self._starts, number) - 1
        shard = self.shards[index]
        if shard.path not in self._damaged:
            try:
                return shard.read(number - self._starts[index])
            except (Damaged, OSError) as error:
                self._damaged.add(shard.path)
                discard_shard(shard.path, error)
        return self.form.load(path)


class Cache:
    """The decoded cache of a set of images, for any size; all splits of the set in the folder `root` share it.
    `where`: a folder, or "auto": this user's cache folder, if at most half of the free disk space is needed."""

    def __init__(self, where: str, root: str | Path, paths: Sequence[str], threads: int = 0):
        self.where, self.root, self.paths = where, os.path.abspath(root), list(dict.fromkeys(paths))
        self.threads = threads or cores()
        self._open: dict[str, Pixels | None] = {}

    def pixels(self, kept: ImagePipeline | Form) -> Pixels | None:
        """Opens the cache for an image pipeline, or another form, and decodes what is missing; None, with a message, if
        it cannot."""
        form = kept if isinstance(kept, Form) else image_form(kept)
        key = json.dumps(form.meta)
        if key not in self._open:
            self._open[key] = self._fill(form)
        return self._open[key]

    def _fill(self, form: Form) -> Pixels | None:
        try:
            folder = self._folder(form.meta)
            waiting = f"cache: waiting for another run that fills {folder}"
            with file_lock(folder / ".lock", lambda: print(waiting), "fills this cache"):
                return Pixels(form, *self._build(folder, form))
        except Unreadable:
            raise  # without the cache, it would be met in the middle of an epoch
        except (OSError, UserError, RuntimeError) as error:  # RuntimeError: there is no home folder
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            print(f"cache: none, so images are decoded in every epoch: {reason}")
            return None

    def _folder(self, meta: dict) -> Path:
        """Makes the folder for these images and this kind of pixels."""
        auto = self.where == "auto"
        if auto and os.environ.get("BUSFAST_CACHE") == "off":
            raise UserError("BUSFAST_CACHE=off")
        about = json.dumps({"images": self.root, "pixels": meta}, indent=1)
        name = re.sub(r"[^\w.-]+", "_", os.path.basename(self.root)) or "images"
        base = pixels_folder() if auto else Path(self.where)
        folder = base / f"{name}-{_by(meta['size'])}-{hash_bytes(about.encode()).hex()[:8]}"
        if (folder / "about.json").is_file():
            (folder / "about.json").touch()  # the time of last use
            return folder
        if auto:  # it also holds fingerprints with thumbnails
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700 if auto else 0o777, parents=True, exist_ok=True)
        with atomic(folder / "about.json") as file:
            file.write(about)
        return folder

    def _build(self, folder: Path, form: Form) -> tuple[list[Shard], dict[str, int]]:
        """Decodes what is missing, under the lock; returns shards and numbers for `Pixels`."""
        for leftover in folder.glob(f".*{SUFFIX}-*"):
            leftover.unlink()  # of a build that was killed
        keys = hash_images(self.paths, folder / MEMO, self.threads)
        shards = open_shards(folder, form.meta, set(keys.values()))
        stored = {key for shard in shards for key in shard.keys}
        missing = {key: path for path, key in keys.items() if key not in stored}  # identical files once
        if missing:
            self._check_space(folder, form, list(missing.values()))
            shards += self._decode(folder, form, missing)
        else:
            say(f"cache: {counted(len(self.paths), 'image')} at {form.size_text}, in {folder}")
        numbers = {key: number for number, key in enumerate(key for shard in shards for key in shard.keys)}
        return shards, {path: numbers[key] for path, key in keys.items()}

    def _decode(self, folder: Path, form: Form, missing: dict[str, str]) -> list[Shard]:
        """Decodes images, key -> path, into new shards."""
        print(f"cache: decoding {counted(len(missing), 'image')} once, to {form.size_text}, into {folder}")
        per_shard = max(IMAGES, len(missing) // SHARDS)
        shards = []
        with ThreadPoolExecutor(self.threads) as pool:
            pixels = map_ahead(pool, name_unreadable(form.load), missing.values(), 4 * self.threads)
            decoded = progress(zip(missing, pixels, strict=True), "decoding images", len(missing))
            for _ in range(0, len(missing), per_shard):
                shards.append(Shard(write_shard(folder, form.meta, islice(decoded, per_shard)), form.meta))
            next(decoded, None)  # ends the progress bar
        return shards

    def _check_space(self, folder: Path, form: Form, paths: list[str]) -> None:
        """Refuses to decode what does not fit on the disk."""
        with ThreadPoolExecutor(self.threads) as pool:
            need = sum(form.area(width, height) * (1 if gray or form.gray else 3) + 200
                       for width, height, gray in pool.map(name_unreadable(_header), paths))
        free = shutil.disk_usage(folder).free
        if need > free * (SHARE if self.where == "auto" else 1):
            limit = f", and cache=auto uses no more than {SHARE:.0%} of that" if self.where == "auto" else ""
            raise UserError(f"the pixels of {len(paths)} images at {form.size_text} need up to {need / 1e6:,.0f} MB, "
                            f"{free / 1e6:,.0f} MB are free in {folder}{limit}. Free some space, or name another "
                            "folder: --cache=FOLDER")


def _by(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def pixel_meta(fit: tuple[int | tuple[int, int], str, str]) -> dict:
    """Returns everything besides the file that determines an image's resized pixels."""
    size, resize, channels = fit
    return {"size": size if isinstance(size, int) else list(size), "resize": resize, "channels": channels,
            "reading": READING} | library_versions()


def library_versions() -> dict:
    """Returns what decodes and resizes images on this machine."""
    return {"pillow": PIL.__version__, "jpeg": f"{features.version('jpg')} {features.version('libjpeg_turbo')}",
            "order": sys.byteorder}


def pixels_folder() -> Path:
    """Returns the folder of this user's decoded caches."""
    return cache_folder() / "pixels"


def list_caches(base: Path) -> list[dict]:
    """Returns a row per decoded cache below `base`: folder, images (their folder), size (px), mb, used (time)."""
    rows = []
    for path in sorted(base.glob("*/about.json")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            rows.append({"folder": path.parent, "images": str(about["images"]), "size": int(about["pixels"]["size"]),
                         "mb": sum(shard.stat().st_size for shard in path.parent.glob(f"*{SUFFIX}")) / 1e6,
                         "used": path.stat().st_mtime})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # not written by busfast
    return rows


def clear_cache(folder: Path) -> None:
    """Removes a decoded cache that `list_caches` returned: its files, and the folder if nothing else is in it."""
    for pattern in (f"*{SUFFIX}", f".*{SUFFIX}-*", MEMO, "about.json", ".lock"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _header(path: str) -> tuple[int, int, bool]:
    """Width, height, and whether an image's header says gray; a color file may hold nothing but gray, and need less."""
    with open_image(path) as image:
        return *image.size, image.mode in GRAY
