"""Hashes of image files, remembered by path, size and times, so that unchanged files are not read in every run."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from busfast.files import atomic
from busfast.pipelines.shards import hash_bytes
from busfast.progress import progress

SETTLED = 2_000_000_000  # ns: a file changed less than this ago may change again within the resolution of its times


def hash_images(paths: Sequence[str], memo: Path, threads: int) -> dict[str, str]:
    """Returns the hash of each image's file; reads only files that are new or changed.

    `memo` remembers the hashes, in JSON lines of path, hash and stamp.
    """
    wanted = set(paths)
    # Line by line: all lines at once would take 50 MB for 100,000 images.
    cached = {path: key for path, key, stamp in _read_memo(memo) if path in wanted and _stamp(path) == stamp}
    changed = {path: _stamp(path) for path in paths if path not in cached}
    with ThreadPoolExecutor(threads) as pool:
        keys = progress(pool.map(_hash_file, changed), "hashing images", len(changed))
        hashed = dict(zip(changed, keys, strict=True))
    if changed:
        settled = time.time_ns() - SETTLED
        old = (line for line in _read_memo(memo) if line[0] in cached)
        new = ((path, hashed[path], stamp) for path, stamp in changed.items() if max(stamp[1:]) < settled)
        with atomic(memo) as file:
            file.writelines(json.dumps(line) + "\n" for line in chain(old, new))
    return {path: cached.get(path) or hashed[path] for path in paths}


def _read_memo(memo: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yields path, hash and stamp, up to the first line that cannot be read."""
    try:
        with open(memo, encoding="utf-8") as file:
            for line in file:
                path, key, stamp = json.loads(line)
                yield str(path), str(key), [int(number) for number in stamp]
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return


def _stamp(path: str) -> list[int]:
    """Size in bytes, and mtime and ctime in ns: the latter also changes when somebody sets the mtime back."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _hash_file(path: str) -> str:
    with open(path, "rb") as file:
        return hash_bytes(file.read()).hex()
