"""Loaders of optional packages (extra `bench`): FFCV, SPDL, WebDataset."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import torch

from busfast.bench.arena import Ready
from busfast.bench.job import Job, ready
from busfast.bench.peers import Files, open_pillow, pillow_transform, tensor_transform

RAW_SIZE = 256  # longer side of the images in FFCV's own file, pixels


def ffcv(job: Job) -> Ready:
    """FFCV, from its own file of raw 256-px images: random resized crops and flips."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToDevice, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    image, file = job.pipeline(), f"{job.folder}/images.beton"
    scale = [np.array(value) * 255 for value in (image.mean, image.std)]
    fields = {"image": RGBImageField(write_mode="raw", max_resolution=RAW_SIZE), "number": IntField()}
    writer = DatasetWriter(file, fields, num_workers=max(1, job.workers))
    writer.from_indexed_dataset(Files(job.images.paths, open_pillow, _unchanged))
    move = [ToDevice(job.device)] if job.device.type != "cpu" else []
    pixels = [RandomResizedCropRGBImageDecoder((job.size, job.size)), RandomHorizontalFlip(image.hflip),
              NormalizeImage(*scale, np.float32), ToTensor(), *move, ToTorchImage()]
    loader = Loader(file, job.bs, num_workers=max(1, job.workers), order=OrderOption.RANDOM, os_cache=True,
                    drop_last=False, pipelines={"image": pixels, "number": [IntDecoder(), ToTensor()]})
    return ready(job, lambda: (batch[0] for batch in loader))


def _unchanged(image):
    return image


def spdl(job: Job) -> Ready:
    """SPDL: FFmpeg decodes and resizes batches in threads, torchvision's v2 augments them there."""
    import spdl.io as ffmpeg
    from spdl.pipeline import PipelineBuilder

    ffmpeg.load_image(job.images.paths[0])  # raises if FFmpeg's libraries are missing; a pipeline would hide it

    def load(augment: bool, paths: list[str]) -> torch.Tensor:
        transform = tensor_transform(job, augment)
        buffer = ffmpeg.load_image_batch(paths, width=None, height=None, pix_fmt=None,
                                     filter_desc=f"scale={job.size}:{job.size}:flags=bilinear,format=pix_fmts=rgb24")
        pixels = ffmpeg.to_torch(buffer).permute(0, 3, 1, 2)
        return torch.stack([transform(image) for image in pixels])

    def epoch(augment: bool):
        order = np.random.permutation(len(job.images.paths)) if augment else range(len(job.images.paths))
        paths = [job.images.paths[index] for index in order]
        batches = [paths[start:start + job.bs] for start in range(0, len(paths), job.bs)]
        pipeline = (PipelineBuilder().add_source(batches)
                    .pipe(partial(load, augment), concurrency=max(1, job.workers), output_order="input")
                    .add_sink(2).build(num_threads=max(1, job.workers)))
        with pipeline.auto_stop():
            yield from pipeline

    return ready(job, partial(epoch, True), partial(epoch, False))


def webdataset(job: Job) -> Ready:
    """WebDataset: the same JPEGs in tar files, opened with Pillow in worker processes."""
    import webdataset as wds

    per_worker = -(-len(job.images.paths) // max(1, job.workers))  # one tar file for each
    with wds.ShardWriter(f"{job.folder}/%03d.tar", maxcount=per_worker, verbose=0) as writer:
        for number, path in enumerate(job.images.paths):
            writer.write({"__key__": f"{number:06}", "image": Path(path).read_bytes()})
    shards = sorted(map(str, Path(job.folder).glob("*.tar")))

    def loader(augment: bool):
        data = wds.WebDataset(shards, shardshuffle=len(shards) if augment else False, empty_check=False)
        data = data.shuffle(len(job.images.paths) if augment else 0)
        data = data.map(partial(_open_bytes, pillow_transform(job, augment))).batched(job.bs, torch.stack)
        workers = {"num_workers": job.workers, "persistent_workers": True} if augment and job.workers else {}
        return wds.WebLoader(data, batch_size=None, **workers)

    return ready(job, partial(iter, loader(True)), partial(iter, loader(False)))


def _open_bytes(transform, sample: dict) -> torch.Tensor:
    return transform(open_pillow(io.BytesIO(sample["image"])))
