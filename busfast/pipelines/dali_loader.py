"""Decodes and resizes images with NVIDIA DALI, on CPU or GPU. The only file that imports nvidia.dali.

torch is imported where it is used: the process of `dali_check`, for which a training waits, needs none.
"""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from PIL import Image

from busfast.data.images import MARGIN, read_image
from busfast.pipelines.dali_formats import dali_mode
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.prefetch import name_unreadable, read_batches
from busfast.processes import cores
from busfast.text import counted

if TYPE_CHECKING:
    import torch

MOST_ON_GPU = 16  # threads
REFUSED: set[str] = set()  # paths of images that DALI could not decode in this process, so that Pillow does


class DaliLoader:
    """Decodes batches in DALI's threads, one batch ahead of the consumer.

    On a CPU, Pillow decodes JPEGs much larger than needed: libjpeg can decode at reduced size, DALI cannot.

    Args:
        pipeline, bs: the image pipeline, and the largest batch.
        device: a CUDA device: DALI decodes and resizes there; any other: on the CPU.
        threads: number of threads, of DALI and for reading files; 0: one per core.
        exact: decode every JPEG at full size. (DALI's resizing is within .2/255 of the reference.)
    """

    def __init__(self, pipeline: ImagePipeline, bs: int, device: "torch.device", threads: int = 0, exact: bool = True):
        self.pipeline, self.bs = pipeline, bs
        self.gpu = gpu_number(device)
        # A mixed decoder takes 16 MiB of GPU memory, and as much pinned, for each thread.
        self.threads = min(threads or cores(), MOST_ON_GPU if self.gpu is not None else sys.maxsize)
        self.enough = 0 if exact or self.gpu is not None else MARGIN * max(pipeline.sides)
        self._idle: dict[bool, list] = {True: [], False: []}
        self._modes: dict[str, str] = {}

    def batches(self, sources: Iterable[list]) -> "Iterator[torch.Tensor]":
        """Yields resized pixels, uint8 (N, H, W, 1 or 3), in the order of `sources`; one channel if all are gray.

        Each pass has its own DALI pipelines. A pass that stops early (`lr_find`, `one_batch`) leaves batches in them
        and they cannot be reset, so they are discarded; those of a complete pass are reused.

        Args:
            sources: batches of paths, Pillow images, arrays or encoded bytes.
        """
        batches = read_batches(name_unreadable(self._encoded), sources, self.threads)
        # gray? -> its DALI pipeline: gray is a third of the work, but on a GPU a decoder of its own
        pipes: dict[bool, Any] = {}
        running: deque = deque()

        def feed():
            batch = next(batches, None)
            if batch is not None:
                encoded, modes, names = zip(*batch, strict=True)
                gray = set(modes) == {"L"} and self.gpu is None
                if gray not in pipes:
                    pipes[gray] = self._idle[gray].pop() if self._idle[gray] else self._build(gray)
                pipes[gray].feed_input("encoded", list(encoded))
                pipes[gray].schedule_run()
                running.append((gray, encoded, names))

        feed()
        while running:
            gray, encoded, names = running.popleft()
            try:
                pixels = _share(pipes[gray], self.gpu)
            except RuntimeError as error:  # DALI names neither the file nor the problem
                for data, name in zip(encoded, names, strict=True):
                    _check_decodes(data, name)
                del pipes[gray]  # it cannot be used any more
                pixels = self._without_refused(encoded, names, error)
            feed()
            yield pixels
        for gray, pipe in pipes.items():
            self._idle[gray].append(pipe)

    def _without_refused(self, encoded: list[np.ndarray], names: list, error: RuntimeError) -> "torch.Tensor":
        """Makes a batch, of which DALI cannot decode all images, with Pillow's pixels of those; or raises `error`."""
        refused = [number for number, data in enumerate(encoded) if not decodes([data], self.gpu)]
        if not refused:  # it is something else, such as too little memory
            raise error
        refuse([str(names[number]) for number in refused if isinstance(names[number], str | os.PathLike)])
        fixed = [_as_pnm(read_image(data.tobytes())) if number in refused else data
                 for number, data in enumerate(encoded)]
        pipe = self._build(gray=False)
        pipe.feed_input("encoded", fixed)
        pipe.schedule_run()
        return _share(pipe, self.gpu)

    def _build(self, gray: bool):
        # Depth 1: the next batch is decoded while the model uses this one; `schedule_run` does not block.
        @pipeline_def(batch_size=self.bs, num_threads=self.threads, device_id=self.gpu, prefetch_queue_depth=1)
        def graph():
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            return _pixels(encoded, gray, self.gpu is not None, self.pipeline)

        pipe = graph()
        pipe.build()
        return pipe

    def _encoded(self, source) -> tuple[np.ndarray, str, object]:
        """Returns the file's bytes, or Pillow's pixels as PNM where DALI's would differ; the mode; the source."""
        if isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            mode = "" if path in REFUSED else self._modes.get(path)
            if mode != "":
                data = np.fromfile(path, dtype=np.uint8)
                mode = self._modes[path] = mode or dali_mode(data, self.enough)
                if mode:
                    return data, mode, source
        image = read_image(source, keep_gray=True, enough=self.enough)
        return _as_pnm(image), image.mode, source


def _as_pnm(image: Image.Image) -> np.ndarray:
    """Returns an image of mode L or RGB as a file that DALI decodes to the same pixels."""
    header = b"P%d %d %d 255\n" % (5 if image.mode == "L" else 6, *image.size)
    return np.frombuffer(header + image.tobytes(), dtype=np.uint8)


def decodes(encoded: list[np.ndarray], gpu: int | None) -> bool:
    """Returns whether DALI decodes all these files, given as bytes."""
    @pipeline_def(batch_size=len(encoded), num_threads=1, device_id=gpu, prefetch_queue_depth=1)
    def graph():
        return _decode(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), False, gpu is not None)

    pipe = graph()
    pipe.build()
    pipe.feed_input("encoded", encoded)
    try:
        pipe.run()
    except RuntimeError:
        return False
    return True


def refuse(paths: list[str]) -> None:
    """Has Pillow decode these images from now on, and says so."""
    if new := sorted(set(paths) - REFUSED):
        REFUSED.update(new)
        print(f"loader: DALI cannot decode {counted(len(new), 'image')}, so Pillow does, such as {new[0]}")


def gpu_number(device: "torch.device | None") -> int | None:
    """The number of a GPU, for DALI; None: the CPU."""
    if device is None or device.type != "cuda":
        return None
    import torch

    return torch.cuda.current_device() if device.index is None else device.index  # each process has its own


def _share(pipe, gpu: int | None) -> "torch.Tensor":
    """The next batch, whose memory DALI keeps as long as the tensor lives. On a GPU, the stream that computes with the
    pixels waits for them, and the host does not."""
    import torch

    outputs = pipe.share_outputs(None if gpu is None else torch.cuda.current_stream(gpu))
    return torch.from_dlpack(outputs[0].as_tensor())


def why_not_on(gpu: int) -> str:
    """Returns why DALI cannot use a GPU; "" if it can."""
    @pipeline_def(batch_size=1, num_threads=1, device_id=gpu)
    def graph():
        return fn.constant(idata=0, device="gpu")

    try:
        graph().build()
    except RuntimeError as error:
        return (f"DALI cannot use this GPU ({str(error).strip().splitlines()[-1][:200]}): its CUDA version must go "
                "with the driver's")
    return ""


def raw_batches(feeds: Iterable[list[np.ndarray]], pipeline: ImagePipeline, bs: int,
                threads: int = 0, device: "torch.device | None" = None) -> "Iterator[torch.Tensor]":
    """Runs the whole image pipeline as DALI operators, on CPU or GPU: the benchmark for busfast's own loading.
    `feeds`: uint8 arrays, encoded files, 1-D, or resized pixels, (S, S, 1 or 3); of one kind, all gray or all color.
    Yields float32 (N, 3, size, size), normalized, channels last."""
    feeds = iter(feeds)
    first = list(islice(feeds, 2))
    image = first[0][0]
    encoded = image.ndim == 1
    gray = dali_mode(image) == "L" if encoded else image.shape[2] == 1
    gpu = gpu_number(device)

    @pipeline_def(batch_size=bs, num_threads=threads or cores(), device_id=gpu, prefetch_queue_depth=len(first))
    def graph():
        source = fn.external_source(name="source", dtype=types.UINT8, **({"ndim": 1} if encoded else
                                                                         {"ndim": 3, "layout": "HWC"}))
        pixels = _pixels(source, gray, gpu is not None, pipeline) if encoded else \
            source.gpu() if gpu is not None else source
        pixels = fn.flip(pixels, horizontal=fn.random.coin_flip(probability=pipeline.hflip),
                         vertical=fn.random.coin_flip(probability=pipeline.vflip))
        if pipeline.rotate:
            pixels = fn.rotate(pixels, angle=fn.random.uniform(range=[-pipeline.rotate, pipeline.rotate]),
                               keep_size=True, fill_value=0, interp_type=types.INTERP_LINEAR)
        if gray or pipeline.channels == "gray":
            pixels = fn.color_space_conversion(pixels, image_type=types.GRAY, output_type=types.RGB)
        return fn.crop_mirror_normalize(pixels, mean=[255 * value for value in pipeline.mean],
                                        std=[255 * value for value in pipeline.std], output_layout="HWC",
                                        dtype=types.FLOAT)

    pipe = graph()
    pipe.build()
    for batch in first:
        pipe.feed_input("source", batch)
    pipe.schedule_run()  # the first call fills the whole queue
    waiting = len(first)
    while waiting:
        yield _share(pipe, gpu).permute(0, 3, 1, 2)
        waiting -= 1
        for batch in islice(feeds, 1):
            pipe.feed_input("source", batch)
            pipe.schedule_run()
            waiting += 1


def _pixels(encoded, gray: bool, on_gpu: bool, spec: ImagePipeline):
    """`busfast.data.images.load_pixels` as DALI operators: decode, to one channel if `gray`, and resize."""
    pixels = _decode(encoded, gray, on_gpu)
    if spec.channels == "gray" and not gray:
        pixels = fn.color_space_conversion(pixels, image_type=types.RGB, output_type=types.GRAY)
    options = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    if spec.resize == "squash":
        return fn.resize(pixels, size=spec.sides, **options)
    shape = fn.cast(fn.peek_image_shape(encoded, adjust_orientation=False), dtype=types.FLOAT)[:2]
    aspect = np.float32(spec.sides) / spec.size  # height is 1
    if spec.resize == "crop":
        middle, sides = shape / 2, fn.reductions.min(shape / aspect) * aspect
        return fn.resize(pixels, size=spec.sides, roi_start=middle - sides / 2, roi_end=middle + sides / 2, **options)
    fitted = dali_math.max(dali_math.floor(shape * spec.size / fn.reductions.max(shape / aspect) + 0.5), 1.0)
    return fn.crop(fn.resize(pixels, size=fitted, **options), crop=spec.sides, rounding="truncate",
                   out_of_bounds_policy="pad", fill_values=0)


def _decode(encoded, gray: bool, on_gpu: bool):
    # Only upright images come here: the two would not read every EXIF alike. Without jpeg_fancy_upsampling, nvJPEG's
    # chroma differs from libjpeg's.
    return fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", adjust_orientation=False,
                             output_type=types.GRAY if gray else types.RGB,
                             **({"jpeg_fancy_upsampling": True} if on_gpu else {}))


def _check_decodes(data: np.ndarray, source) -> None:
    """Raises the error if Pillow cannot decode an image either; `source` is where its bytes came from."""
    name_unreadable(lambda _: read_image(data.tobytes()))(source)
