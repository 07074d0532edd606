"""Decodes and fits images with NVIDIA DALI, on CPU or GPU. The one file that imports nvidia.dali."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math

from busfast.data.images import MARGIN, open_image, read_image
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.prefetch import name_unreadable, read_batches

# Pillow's raw modes that DALI was shown to decode to the same pixels; anything else goes through read_image.
_SAME = {"JPEG": {"L", "RGB"}, "PNG": {"L", "RGB", "RGBA"}}


class DaliLoader:
    """Decodes whole batches in DALI's own threads, one batch ahead of the consumer.

    A JPEG that is much larger than wanted is decoded by Pillow, on a CPU: libjpeg can decode at a part of the size,
    and DALI always decodes the whole.

    Args:
        pipeline: what to do to the images.
        bs: largest batch.
        device: a CUDA device makes DALI decode and resize there; any other, on the CPU.
        threads: threads of DALI, and of reading; 0: one a core.
        exact: decode every JPEG at its full size; DALI's resizing is within .2/255 of the reference even so.
    """

    def __init__(self, pipeline: ImagePipeline, bs: int, device: torch.device, threads: int = 0, exact: bool = True):
        self.pipeline, self.bs = pipeline, bs
        self.gpu = None
        if device is not None and device.type == "cuda":  # each process has its own current one
            self.gpu = torch.cuda.current_device() if device.index is None else device.index
        self.threads = threads or os.cpu_count()
        self.enough = 0 if exact or self.gpu is not None else MARGIN * pipeline.size
        self._idle: dict[bool, list] = {True: [], False: []}
        self._modes: dict[str, str] = {}

    def batches(self, sources: Iterable[list]) -> Iterator[torch.Tensor]:
        """Yields fitted pixels, uint8 (N, size, size, 1 or 3), in the order of `sources`; one channel if all are gray.

        Each pass has DALI pipelines to itself: one that was left in the middle (`lr_find`, `one_batch`) still holds
        batches, cannot be reset, and is thrown away; those of a pass that came to its end are used again.

        Args:
            sources: batches of paths, Pillow images, arrays or encoded bytes.

        Raises:
            UserError: a file cannot be read; names it.
        """
        read = read_batches(name_unreadable(self._encoded), sources, self.threads)
        mine: dict[bool, object] = {}  # gray or not -> its pipeline: gray is a third of the work
        running: deque = deque()

        def feed():
            batch = next(read, None)
            if batch is not None:
                encoded, modes, names = zip(*batch, strict=True)
                gray = set(modes) == {"L"}
                if gray not in mine:
                    mine[gray] = self._idle[gray].pop() if self._idle[gray] else self._build(gray)
                mine[gray].feed_input("encoded", list(encoded))
                mine[gray].schedule_run()
                running.append((mine[gray], encoded, names))

        feed()
        while running:
            pipe, encoded, names = running.popleft()
            try:
                outputs = pipe.share_outputs()
            except RuntimeError as error:  # DALI says neither which file it was nor what is wrong with it
                for data, name in zip(encoded, names, strict=True):
                    _check_decodes(data, name)
                raise error
            # The copy frees DALI's buffer for the next batch.
            pixels = torch.from_dlpack(outputs[0].as_tensor()).clone()
            pipe.release_outputs()
            feed()
            yield pixels
        for gray, pipe in mine.items():
            self._idle[gray].append(pipe)

    def _build(self, gray: bool):
        # Depth 1: the next batch is worked on while the model has this one; `schedule_run` does not wait.
        @pipeline_def(batch_size=self.bs, num_threads=self.threads, device_id=self.gpu, prefetch_queue_depth=1)
        def graph():
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            return _pixels(encoded, gray, self.gpu is not None, self.pipeline)

        pipe = graph()
        pipe.build()
        return pipe

    def _encoded(self, source) -> tuple[np.ndarray, str, object]:
        """The file's own bytes if DALI decodes them as Pillow does, else Pillow's pixels as PNM; mode; the source."""
        if isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            mode = self._modes.get(path)
            if mode != "":
                data = np.fromfile(path, dtype=np.uint8)
                mode = self._modes[path] = mode or _mode_if_alike(data, self.enough)
                if mode:
                    return data, mode, source
        image = read_image(source, keep_gray=True, enough=self.enough)
        header = b"P%d %d %d 255\n" % (5 if image.mode == "L" else 6, *image.size)
        return np.frombuffer(header + image.tobytes(), dtype=np.uint8), image.mode, source


def raw_batches(feeds: Iterable[list[np.ndarray]], pipeline: ImagePipeline, bs: int,
                threads: int = 0) -> Iterator[torch.Tensor]:
    """The whole image pipeline as DALI operators alone, on the CPU: what busfast's own loading is measured against.

    Args:
        feeds: batches of arrays, uint8: 1-D, an encoded file; or (S, S, 1 or 3), fitted pixels. All of one kind, and
            all gray or all color.
        pipeline: what to do to the images.
        bs: largest batch.
        threads: DALI's threads; 0: one a core.

    Yields:
        float32 (N, 3, size, size), normalised, channels last, in DALI's own memory: valid until the next one.
    """
    feeds = iter(feeds)
    first = list(islice(feeds, 2))
    image = first[0][0]
    encoded = image.ndim == 1
    gray = _mode_if_alike(image) == "L" if encoded else image.shape[2] == 1

    @pipeline_def(batch_size=bs, num_threads=threads or os.cpu_count(), device_id=None,
                  prefetch_queue_depth=len(first))
    def graph():
        source = fn.external_source(name="source", dtype=types.UINT8, **({"ndim": 1} if encoded else
                                                                         {"ndim": 3, "layout": "HWC"}))
        pixels = _pixels(source, gray, False, pipeline) if encoded else source
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
        yield torch.from_dlpack(pipe.share_outputs()[0].as_tensor()).permute(0, 3, 1, 2)
        pipe.release_outputs()
        waiting -= 1
        for batch in islice(feeds, 1):
            pipe.feed_input("source", batch)
            pipe.schedule_run()
            waiting += 1


def _pixels(encoded, gray: bool, on_gpu: bool, spec: ImagePipeline):
    """`busfast.data.images.load_pixels` in DALI's words: decoded, with one channel if `gray`, and fitted."""
    # jpeg_fancy_upsampling: without it nvJPEG's chroma differs from libjpeg's.
    pixels = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu",
                               output_type=types.GRAY if gray else types.RGB,
                               **({"jpeg_fancy_upsampling": True} if on_gpu else {}))
    if spec.channels == "gray" and not gray:
        pixels = fn.color_space_conversion(pixels, image_type=types.RGB, output_type=types.GRAY)
    how = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    if spec.resize == "squash":
        return fn.resize(pixels, size=(spec.size, spec.size), **how)
    shape = fn.cast(fn.peek_image_shape(encoded), dtype=types.FLOAT)[:2]
    if spec.resize == "crop":
        middle, side = shape / 2, fn.reductions.min(shape)
        return fn.resize(pixels, size=(spec.size, spec.size), roi_start=middle - side / 2,
                         roi_end=middle + side / 2, **how)
    fitted = dali_math.max(dali_math.floor(shape * spec.size / fn.reductions.max(shape) + 0.5), 1.0)
    pixels = fn.resize(pixels, size=fitted, **how)
    return fn.crop(pixels, crop=(spec.size, spec.size), rounding="truncate", out_of_bounds_policy="pad",
                   fill_values=0)


def _check_decodes(data: np.ndarray, source) -> None:
    """Raises the error of an image that Pillow cannot decode, either; `source` is where its bytes came from."""
    name_unreadable(lambda _: read_image(data.tobytes()))(source)


def _mode_if_alike(data: np.ndarray, enough: int = 0) -> str:
    """Returns Pillow's raw mode of a file that DALI is to decode, to the same pixels; "" if Pillow is.

    Args:
        data: the file's bytes.
        enough: as that of `read_image`.
    """
    try:
        with open_image(data.tobytes()) as image:
            if enough and image.format == "JPEG" and min(image.size) >= 2 * enough:
                return ""
            raw_mode = image.tile[0].args if image.tile else ""
            if isinstance(raw_mode, tuple):
                raw_mode = raw_mode[0]
            upright = image.format == "JPEG" or image.getexif().get(0x0112, 1) == 1
            return raw_mode if upright and raw_mode in _SAME.get(image.format, ()) else ""
    except Exception:  # read_image will say what is wrong with it
        return ""
