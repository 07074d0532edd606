"""The decoded cache: each image is read and fitted once, and its pixels are kept on disk for every later epoch and run.

Pixels are found by a hash of the image's file, so that a changed image is never taken for the old one; what a path
hashed to is remembered with the file's size and times, so that files are not read for it in every run.
"""

import json
import os
import re
import shutil
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock, Timeout
from PIL import features

from busfast.data.fingerprint import cache_folder
from busfast.data.images import READING, load_pixels, open_image
from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.shards import SUFFIX, Damaged, Shard, hash_bytes, write_shard
from busfast.progress import ahead, progress
from busfast.text import counted

IMAGES, SHARDS = 1024, 64  # a shard is what a killed build can lose, and an open file: as small as its number allows
SHARE = 0.5  # of the free disk, at most, that `auto` takes without being asked
SETTLED = 2_000_000_000  # ns: a file changed less than this ago may change again without its times showing it
MEMO = "hashes.jsonl"
GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class Pixels:
    """The fitted pixels of a set of images, out of the cache.

    Args:
        fit: the arguments of `load_pixels`.
        shards: that hold them.
        numbers: path -> its image's number, counted through all shards, for every image of the set.
    """

    def __init__(self, fit: tuple[int, str, str], shards: list[Shard], numbers: dict[str, int]):
        self.fit, self.shards, self.numbers, self.distrusted = fit, shards, numbers, set()
        self._starts = [0, *accumulate(map(len, shards))]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, path: str) -> np.ndarray:
        """Returns uint8, (size, size, 1 or 3): the very values of `load_pixels`, which decodes what is damaged."""
        number = self.numbers[path]
        which = bisect_right(self._starts, number) - 1
        shard = self.shards[which]
        if shard.path not in self.distrusted:
            try:
                return shard.read(number - self._starts[which])
            except (Damaged, OSError) as error:
                self.distrusted.add(shard.path)
                _discard(shard.path, error)
        return load_pixels(path, *self.fit)


class Cache:
    """The decoded cache of a set of images, for any size.

    Args:
        where: "auto" (this user's cache folder, if it takes no more than half of the free disk) or a folder.
        root: folder of the set, by which its cache is known: other splits of it use the same one.
        paths: the images to keep.
        threads: decoding threads; 0: one a core.
    """

    def __init__(self, where: str, root: str | Path, paths: Sequence[str], threads: int = 0):
        self.where, self.root, self.paths = where, os.path.abspath(root), list(dict.fromkeys(paths))
        self.threads = threads or os.cpu_count()
        self._open: dict[tuple, Pixels | None] = {}

    def pixels(self, image: ImagePipeline) -> Pixels | None:
        """Opens the cache for an image pipeline, decoding what is missing; None, with the reason said, if it cannot."""
        if image.fit not in self._open:
            self._open[image.fit] = self._fill(image.fit)
        return self._open[image.fit]

    def _fill(self, fit: tuple[int, str, str]) -> Pixels | None:
        meta = pixel_meta(fit)
        try:
            folder = self._folder(meta)
            with _alone(folder):
                return Pixels(fit, *self._build(folder, fit, meta))
        except (OSError, UserError, RuntimeError) as error:  # RuntimeError: there is no home folder
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            print(f"cache: none, so images are decoded in every epoch: {reason}", flush=True)
            return None

    def _folder(self, meta: dict) -> Path:
        """Makes the folder of these images and this kind of pixels."""
        if self.where == "auto" and os.environ.get("BUSFAST_CACHE") == "off":
            raise UserError("BUSFAST_CACHE=off")
        about = json.dumps({"images": self.root, "pixels": meta}, indent=1)
        name = re.sub(r"[^\w.-]+", "_", os.path.basename(self.root)) or "images"
        base = pixels_folder() if self.where == "auto" else Path(self.where)
        folder = base / f"{name}-{meta['size']}-{hash_bytes(about.encode()).hex()[:8]}"
        if not (folder / "about.json").is_file():
            if self.where == "auto":  # fingerprints with thumbnails lie in it, too
                cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700 if self.where == "auto" else 0o777, parents=True, exist_ok=True)
            with atomic(folder / "about.json") as file:
                file.write(about)
        return folder

    def _build(self, folder: Path, fit: tuple[int, str, str], meta: dict) -> tuple[list[Shard], dict[str, int]]:
        """Decodes what is missing; returns what `Pixels` takes. Called while no other builder is at work."""
        for left in folder.glob(f".*{SUFFIX}-*"):
            left.unlink()  # of a builder that was killed
        keys = self._hash(folder)
        shards = _open_shards(folder, meta, set(keys.values()))
        numbers = _number(shards)
        missing = {key: path for path, key in keys.items() if key not in numbers}  # a picture that is there twice: once
        if missing:
            self._check_room(folder, fit, list(missing.values()))
            size, resize, channels = fit
            print(f"cache: decoding {counted(len(missing), 'image')} once, to {size} px, into {folder}", flush=True)
            read = partial(load_pixels, size=size, resize=resize, channels=channels)
            with ThreadPoolExecutor(self.threads) as pool:
                decoded = progress(zip(missing, ahead(pool, read, missing.values(), 4 * self.threads), strict=True),
                                   "decoding images", len(missing))
                for count in _shares(len(missing), max(IMAGES, len(missing) // SHARDS)):
                    path = write_shard(folder, meta, (next(decoded) for _ in range(count)))
                    shards.append(Shard(path, meta))
                next(decoded, None)  # lets the bar end
            numbers = _number(shards)
        else:
            (folder / "about.json").touch()  # when it was used last
            print(f"cache: {counted(len(self.paths), 'image')} at {fit[0]} px, in {folder}", flush=True)
        return shards, {path: numbers[key] for path, key in keys.items()}

    def _hash(self, folder: Path) -> dict[str, str]:
        """Returns the hash of each image's file; reads only those that are new or were touched since."""
        own = set(self.paths)
        # One line after the other, for all of them at once would take 50 MB of 100,000 images.
        known = {path: key for path, key, stamp in _read_memo(folder) if path in own and _stamp(path) == stamp}
        fresh = {path: _stamp(path) for path in self.paths if path not in known}
        with ThreadPoolExecutor(self.threads) as pool:
            hashed = dict(zip(fresh, progress(pool.map(_hash_file, fresh), "hashing images", len(fresh)), strict=True))
        if fresh:
            settled = time.time_ns() - SETTLED
            old = (line for line in _read_memo(folder) if line[0] in known)
            new = ((path, hashed[path], stamp) for path, stamp in fresh.items() if max(stamp[1:]) < settled)
            with atomic(folder / MEMO) as file:
                file.writelines(json.dumps(line) + "\n" for line in chain(old, new))
        return {path: known.get(path) or hashed[path] for path in self.paths}

    def _check_room(self, folder: Path, fit: tuple[int, str, str], paths: list[str]) -> None:
        """Refuses to begin what the disk cannot hold."""
        size, _, channels = fit
        with ThreadPoolExecutor(self.threads) as pool:
            gray = sum(pool.map(_is_gray, paths)) if channels == "rgb" else len(paths)
        need = size * size * (3 * len(paths) - 2 * gray) + 200 * len(paths)
        free = shutil.disk_usage(folder).free
        if need > free * (SHARE if self.where == "auto" else 1):
            half = f", and no more than {SHARE:.0%} of that is taken unasked" if self.where == "auto" else ""
            raise UserError(f"the pixels of {len(paths)} images at {size} px need up to {_mb(need)} MB, {_mb(free)} MB "
                            f"are free in {folder}{half}. Make room, or name another folder: --cache=FOLDER")


def pixel_meta(fit: tuple[int, str, str]) -> dict:
    """Returns everything that decides an image's fitted pixels, besides its file."""
    size, resize, channels = fit
    return {"size": size, "resize": resize, "channels": channels, "reading": READING, "pillow": PIL.__version__,
            "jpeg": f"{features.version('jpg')} {features.version('libjpeg_turbo')}", "order": sys.byteorder}


def pixels_folder() -> Path:
    """Returns where the decoded caches of this user are."""
    return cache_folder() / "pixels"


def list_caches(base: Path) -> list[dict]:
    """Returns a row a decoded cache below `base`: folder, images (where they are), size (px), mb, used (time)."""
    rows = []
    for about in sorted(base.glob("*/about.json")):
        try:
            told = json.loads(about.read_text(encoding="utf-8"))
            rows.append({"folder": about.parent, "images": str(told["images"]), "size": int(told["pixels"]["size"]),
                         "mb": sum(path.stat().st_size for path in about.parent.glob(f"*{SUFFIX}")) / 1e6,
                         "used": about.stat().st_mtime})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # not one of ours
    return rows


def clear_cache(folder: Path) -> None:
    """Removes a decoded cache that `list_caches` has named: its own files, and the folder if nothing else is in it."""
    for pattern in (f"*{SUFFIX}", f".*{SUFFIX}-*", MEMO, "about.json", ".lock"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process build at a time; the lock goes with the process, however it ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"cache: another run is at work in {folder}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open_shards(folder: Path, meta: dict, wanted: set[str]) -> list[Shard]:
    """Opens the shards of a folder; removes damaged ones, and those of which no image is left."""
    shards = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            shard = Shard(path, meta)
        except Exception as error:  # a damaged one raises nearly anything; the worst that follows is decoding again
            _discard(path, error)
            continue
        if wanted.isdisjoint(shard.keys):
            path.unlink()
        else:
            shards.append(shard)
    return shards


def _number(shards: list[Shard]) -> dict[str, int]:
    """Returns key -> the number of its image, counted through all shards."""
    return {key: number for number, key in enumerate(key for shard in shards for key in shard.keys)}


def _discard(path: Path, error: Exception) -> None:
    print(f"cache: {error}; its images are decoded again", flush=True)
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # it will be found damaged again


def _read_memo(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yields what paths hashed to: path, hash, stamp; nothing more from where the file cannot be read."""
    try:
        with open(folder / MEMO, encoding="utf-8") as file:
            for line in file:
                path, key, stamp = json.loads(line)
                yield str(path), str(key), [int(number) for number in stamp]
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return


def _stamp(path: str) -> list[int]:
    """Size in bytes and the times, in ns, that change when a file is written to, even if somebody sets them back."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _hash_file(path: str) -> str:
    with open(path, "rb") as file:
        return hash_bytes(file.read()).hex()


def _is_gray(path: str) -> bool:
    """Whether an image's header says gray; a color file that holds nothing but gray needs less than is thought."""
    with open_image(path) as image:
        return image.mode in GRAY


def _shares(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}"
