"""Which library to keep decoded pixels with: random batches of small uint8 images from NumPy, LMDB, Zarr, ...

Makes the table "How the pixels are kept" of docs/performance.md. Libraries that are not installed are skipped
(pip install -e ".[bench]").
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import run_study

from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.report import Report, reasons, tabulate
from busfast.errors import UserError

DEFAULTS = {"images": 2000, "size": 224, "bs": 32, "rounds": 5, "only": ""}
BASE = "NumPy memory map"
MIN_SECONDS = 0.5  # of a measurement

Reader = Callable[[np.ndarray], np.ndarray]  # row numbers -> uint8 (rows, size, size)


def make_pixels(count: int, size: int) -> np.ndarray:
    """Returns uint8 (count, size, size): smooth with noise, which compresses about as well as a real image."""
    rng = np.random.default_rng(0)
    wave = 110 + 60 * np.sin(np.arange(size) / 20)[:, None] * np.cos(np.arange(size) / 31)
    return np.stack([(wave + rng.normal(0, 4, wave.shape) + index % 50).clip(0, 255).astype(np.uint8)
                     for index in range(count)])


def memory_map(folder: Path, pixels: np.ndarray) -> Reader:
    """NumPy's own file, mapped."""
    np.save(folder / "pixels.npy", pixels)
    mapped = np.load(folder / "pixels.npy", mmap_mode="r")
    return lambda rows: mapped[rows]


def binary_file(folder: Path, pixels: np.ndarray) -> Reader:
    """A file of nothing but pixels, read with pread."""
    pixels.tofile(folder / "pixels.bin")
    handle, shape, length = os.open(folder / "pixels.bin", os.O_RDONLY), pixels.shape[1:], pixels[0].nbytes
    return lambda rows: np.stack([np.frombuffer(os.pread(handle, length, int(row) * length), np.uint8).reshape(shape)
                                  for row in rows])


def lmdb(folder: Path, pixels: np.ndarray) -> Reader:
    """One record per image."""
    import lmdb

    database = lmdb.open(str(folder), map_size=4 * pixels.nbytes)
    with database.begin(write=True) as transaction:
        for row, image in enumerate(pixels):
            transaction.put(b"%08d" % row, image.tobytes())
    shape, reader = pixels.shape[1:], database.begin(buffers=True)
    return lambda rows: np.stack([np.frombuffer(reader.get(b"%08d" % row), np.uint8).reshape(shape) for row in rows])


def zarr(folder: Path, pixels: np.ndarray) -> Reader:
    """One chunk per image, in shards, not compressed."""
    import zarr

    array = zarr.create_array(str(folder / "pixels.zarr"), shape=pixels.shape, dtype="uint8", compressors=None,
                              chunks=(1, *pixels.shape[1:]), shards=(min(500, len(pixels)), *pixels.shape[1:]))
    array[:] = pixels
    return lambda rows: array.oindex[np.sort(rows)]


def arrow(folder: Path, pixels: np.ndarray) -> Reader:
    """An Arrow IPC file of fixed-size binary, mapped."""
    import pyarrow as pa

    kind = pa.binary(pixels[0].nbytes)
    schema = pa.schema([("pixels", kind)])
    with pa.OSFile(str(folder / "pixels.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write(pa.record_batch([pa.FixedSizeBinaryArray.from_buffers(kind, len(pixels), [
            None, pa.py_buffer(pixels)])], schema=schema))
    batch = pa.ipc.open_file(pa.memory_map(str(folder / "pixels.arrow"))).get_batch(0)
    values = np.frombuffer(batch.column(0).buffers()[1], np.uint8).reshape(pixels.shape)
    return lambda rows: values[rows]


def safetensors(folder: Path, pixels: np.ndarray) -> Reader:
    """One tensor, one slice per image."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    save_file({"pixels": pixels}, folder / "pixels.safetensors")
    tensor = safe_open(folder / "pixels.safetensors", "numpy").get_slice("pixels")
    return lambda rows: np.stack([tensor[int(row)] for row in rows])


def hdf5(folder: Path, pixels: np.ndarray) -> Reader:
    """A contiguous dataset."""
    import h5py

    with h5py.File(folder / "pixels.h5", "w") as file:
        file["pixels"] = pixels
    data = h5py.File(folder / "pixels.h5")["pixels"]
    return lambda rows: np.stack([data[int(row)] for row in rows])


STORES = {  # name -> function that writes and opens it, packages that it needs
    BASE: (memory_map, {}), "plain file, pread": (binary_file, {}), "LMDB": (lmdb, {"lmdb": "lmdb"}),
    "Zarr": (zarr, {"zarr": "zarr"}), "Arrow IPC": (arrow, {"pyarrow": "pyarrow"}), "safetensors": (safetensors, {}),
    "HDF5": (hdf5, {"h5py": "h5py"}),
}


def make_store(name: str, folder: str, count: int, size: int, bs: int) -> Ready:
    """Writes a store, checks that it returns the same pixels, and reads random batches from it."""
    folder = Path(folder)
    folder.mkdir()
    pixels = make_pixels(count, size)
    start = time.perf_counter()
    read = STORES[name][0](folder, pixels)
    seconds = time.perf_counter() - start
    rows = np.arange(min(bs, count))
    if not np.array_equal(read(rows), pixels[rows]):
        raise UserError("it returns other pixels than were written")
    del pixels
    rng = np.random.default_rng(1)

    def measure() -> float:
        images, start = 0, time.perf_counter()
        while time.perf_counter() - start < MIN_SECONDS:
            images += int(read(rng.permutation(count)[:bs])[-1, 0, 0] >= 0) * bs
        return images / (time.perf_counter() - start)

    used = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    return Ready(measure, {"build_s": seconds, "mb": used / 1e6})


def run(folder: Path, images: int, size: int, bs: int, rounds: int, only: list[str]) -> Report:
    """Measures the stores.

    Args:
        folder: to write to; the caller removes it.
        images: number of images.
        size: side of the images, pixels.
        bs: images per batch.
        rounds: counted rounds.
        only: words of stores' names; empty: all.
    """
    contenders = [Contender(name, make_store, {"name": name, "folder": str(folder / str(number)), "count": images,
                                               "size": size, "bs": bs}, packages)
                  for number, (name, (_, packages)) in enumerate(STORES.items())]
    outcomes = compete(pick(contenders, only), rounds, at_once=1)
    notes = [
        f"{images:,} gray images of {size} px, uint8, not compressed; random batches of {bs}, from the system's page "
        f"cache rather than the disk; {rounds} interleaved rounds after a warm-up; img_per_s is the median, "
        "img_per_s_iqr the interquartile range.",
        "build_s: seconds to write all of them; mb: their size on the disk.",
    ]
    return Report(f"Stores of decoded pixels, {size} px", tabulate(outcomes, BASE, ["build_s", "mb"]),
                  ("img_per_s", "images a second"), (), notes, reasons(outcomes),
                  packages=("lmdb", "zarr", "pyarrow", "h5py"))


if __name__ == "__main__":
    run_study("stores", __doc__, DEFAULTS, run)
