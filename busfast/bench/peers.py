"""The usual ways to load images for training: fastai, torch with Pillow or torchvision, timm. Workers, float32."""

from functools import partial
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from busfast.bench.arena import Ready
from busfast.bench.images import VALID
from busfast.bench.job import Job, ready


def fastai_datablock(job: Job) -> Ready:
    """fastai's usual recipe: Resize(460) per item, aug_transforms(size=224) per batch (both scaled to the size)."""
    from fastai.vision.augment import Resize, aug_transforms

    return _fastai(job, Resize(job.size * 460 // 224), aug_transforms(size=job.size))


def fastai_crop(job: Job) -> Ready:
    """fastai's cheaper recipe: RandomResizedCrop and a flip per item (a flip of the batch would resample it)."""
    from fastai.vision.augment import FlipItem, RandomResizedCrop

    return _fastai(job, [RandomResizedCrop(job.size), FlipItem()], [])


def _fastai(job: Job, item_tfms, batch_tfms: list) -> Ready:
    dls = fastai_dls(job, item_tfms, batch_tfms)

    def epoch():
        for pixels, _ in dls.train:
            yield pixels.as_subclass(torch.Tensor)

    return ready(job, epoch)


def fastai_dls(job: Job, item_tfms, batch_tfms: list):
    """Makes DataLoaders with fastai's DataBlock and transforms; batches are also normalized."""
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import ColReader, Normalize
    from fastai.vision.data import ImageBlock

    image = job.pipeline()
    rows = pd.DataFrame({"image": job.images.paths, "label": job.images.labels})
    block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader("image"), get_y=ColReader("label"),
                      splitter=_all_train, item_tfms=item_tfms,
                      batch_tfms=[*batch_tfms, Normalize.from_stats(image.mean, image.std, cuda=False)])
    return block.dataloaders(rows, bs=job.bs, num_workers=job.workers, device=job.device)


def _all_train(items) -> tuple[list[int], list[int]]:
    return list(range(len(items))), list(range(min(VALID, len(items))))


class Files(Dataset):
    """Image files, each opened and transformed to a tensor; its label is its number. timm sets its own `transform`."""

    def __init__(self, paths, open_file, transform=None):
        self.paths, self.open_file, self.transform = paths, open_file, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(self.open_file(self.paths[index])), index


def open_pillow(path: Any) -> Image.Image:
    """Opens a file as torchvision's ImageFolder does."""
    with Image.open(path) as image:
        return image.convert("RGB")


def pillow_transform(job: Job, augment: bool):
    """Returns the pipeline as torchvision's transforms of Pillow images."""
    from torchvision import transforms as T
    from torchvision.transforms import InterpolationMode

    image = job.pipeline(augment)
    augmentation = [T.RandomHorizontalFlip(image.hflip), T.RandomRotation(image.rotate, InterpolationMode.BILINEAR)]
    return T.Compose([T.Resize((job.size, job.size)), *(augmentation if augment else []), T.ToTensor(),
                      T.Normalize(image.mean, image.std)])


def tensor_transform(job: Job, augment: bool):
    """Returns the pipeline as torchvision's v2 transforms of uint8 tensors."""
    from torchvision.transforms import InterpolationMode, v2

    image = job.pipeline(augment)
    augmentation = [v2.RandomHorizontalFlip(image.hflip), v2.RandomRotation(image.rotate, InterpolationMode.BILINEAR)]
    return v2.Compose([v2.Resize((job.size, job.size), antialias=True), *(augmentation if augment else []),
                       v2.ToDtype(torch.float32, scale=True), v2.Normalize(image.mean, image.std)])


def torch_pillow(job: Job) -> Ready:
    """A torch DataLoader; files are opened with Pillow."""
    return _torch(job, open_pillow, pillow_transform)


def torch_torchvision(job: Job) -> Ready:
    """A torch DataLoader; files are decoded by torchvision.io."""
    from torchvision.io import ImageReadMode, decode_image

    return _torch(job, partial(decode_image, mode=ImageReadMode.RGB, apply_exif_orientation=True), tensor_transform)


def _torch(job: Job, open_file, make_transform) -> Ready:
    def loader(augment: bool) -> DataLoader:
        files = Files(job.images.paths, open_file, make_transform(job, augment))
        workers = {"num_workers": job.workers, "persistent_workers": True} if augment and job.workers else {}
        return DataLoader(files, job.bs, shuffle=augment, pin_memory=job.device.type == "cuda", **workers)

    return ready(job, partial(_pixels, loader(True)), partial(_pixels, loader(False)))


def timm_loader(job: Job) -> Ready:
    """timm's create_loader with its usual training crop, without further augmentation, which would make it slower; on a
    GPU with its prefetcher, which normalizes there."""
    from timm.data import create_loader

    image = job.pipeline()
    loader = create_loader(Files(job.images.paths, open_pillow), (3, job.size, job.size), job.bs, is_training=True,
                           use_prefetcher=job.device.type == "cuda", color_jitter=None, auto_augment=None,
                           mean=image.mean, std=image.std,
                           num_workers=job.workers, device=job.device, persistent_workers=job.workers > 0)
    return ready(job, partial(_pixels, loader))


def _pixels(loader):
    for pixels, _ in loader:
        yield pixels
