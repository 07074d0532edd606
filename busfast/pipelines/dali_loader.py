"""Carries an image pipeline out with NVIDIA DALI, on CPU or GPU. The one file that imports nvidia.dali."""

import io
import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from PIL import Image

from busfast.data.images import read_image
from busfast.pipelines.image import ImagePipeline, Request

# Pillow's raw modes that DALI was shown to decode to the same pixels; anything else goes through read_image.
_SAME = {"JPEG": {"L", "RGB"}, "PNG": {"L", "RGB", "RGBA"}}


class DaliLoader:
    """Decodes and augments whole batches in DALI's own threads, one batch ahead of the consumer.

    Args:
        pipeline: what to do to the images.
        bs: largest batch.
        device: a CUDA device makes DALI decode and augment there; any other, on the CPU.
        threads: DALI's threads; 0: one a core.
    """

    def __init__(self, pipeline: ImagePipeline, bs: int, device: torch.device, threads: int = 0):
        self.pipeline, self.bs = pipeline, bs
        self.gpu = (device.index or 0) if device is not None and device.type == "cuda" else None
        self.threads = threads or os.cpu_count()
        self._idle: list = []
        self._plain: dict[str, bool] = {}

    def batches(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yields float32 (N, 3, size, size), normalised, channels last in memory, in the order of `requests`.

        Each pass has a DALI pipeline to itself: one that was left in the middle (`lr_find`, `one_batch`) still
        holds batches, cannot be reset, and is thrown away; one that came to its end is used again.
        """
        pipe = self._idle.pop() if self._idle else self._build()
        requests = iter(requests)
        more = self._feed(pipe, next(requests, None))
        while more:
            pixels = self._to_torch(pipe.share_outputs()[0])
            pipe.release_outputs()
            more = self._feed(pipe, next(requests, None))
            yield pixels
        self._idle.append(pipe)

    def _build(self):
        spec = self.pipeline
        on_gpu = self.gpu is not None

        # Depth 1: the next batch is worked on while the model has this one; `schedule_run` does not wait.
        @pipeline_def(batch_size=self.bs, num_threads=self.threads, device_id=self.gpu, prefetch_queue_depth=1)
        def graph():
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            mirror = fn.external_source(name="hflip", dtype=types.INT32, ndim=0)
            vertical = fn.external_source(name="vflip", dtype=types.INT32, ndim=0)
            angle = fn.external_source(name="angle", dtype=types.FLOAT, ndim=0)
            # jpeg_fancy_upsampling: without it nvJPEG's chroma differs from libjpeg's.
            pixels = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB,
                                       **({"jpeg_fancy_upsampling": True} if on_gpu else {}))
            if spec.channels == "gray":
                pixels = fn.color_space_conversion(pixels, image_type=types.RGB, output_type=types.GRAY)
                pixels = fn.color_space_conversion(pixels, image_type=types.GRAY, output_type=types.RGB)
            pixels = _fit(pixels, encoded, spec)
            pixels = fn.flip(pixels, horizontal=mirror, vertical=vertical)
            pixels = fn.rotate(pixels, angle=angle, keep_size=True, fill_value=0, interp_type=types.INTERP_LINEAR)
            return fn.crop_mirror_normalize(pixels, mean=[255 * value for value in spec.mean],
                                            std=[255 * value for value in spec.std], output_layout="HWC",
                                            dtype=types.FLOAT)

        pipe = graph()
        pipe.build()
        return pipe

    def _feed(self, pipe, one: Request | None) -> bool:
        if one is None:
            return False
        pipe.feed_input("encoded", [self._encoded(image) for image in one.images])
        pipe.feed_input("hflip", one.hflip.astype(np.int32))
        pipe.feed_input("vflip", one.vflip.astype(np.int32))
        pipe.feed_input("angle", one.angle)
        pipe.schedule_run()
        return True

    def _encoded(self, source) -> np.ndarray:
        """The file's own bytes where DALI decodes them as Pillow does, else Pillow's pixels as a PPM file."""
        if isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            data = np.fromfile(path, dtype=np.uint8)
            if path not in self._plain:
                self._plain[path] = _decodes_alike(data)
            if self._plain[path]:
                return data
        image = read_image(source)
        header = b"P6 %d %d 255\n" % image.size
        return np.frombuffer(header + image.tobytes(), dtype=np.uint8)

    def _to_torch(self, output) -> torch.Tensor:
        # The copy frees DALI's buffer for the next batch.
        return torch.from_dlpack(output.as_tensor()).clone().permute(0, 3, 1, 2)


def _fit(pixels, encoded, spec: ImagePipeline):
    """`busfast.data.images.fit_image` in DALI's words, to the same whole pixels."""
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


def _decodes_alike(data: np.ndarray) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            raw_mode = image.tile[0].args if image.tile else ""
            if isinstance(raw_mode, tuple):
                raw_mode = raw_mode[0]
            upright = image.format == "JPEG" or image.getexif().get(0x0112, 1) == 1
            return upright and raw_mode in _SAME.get(image.format, ())
    except Exception:  # read_image will say what is wrong with it
        return False
