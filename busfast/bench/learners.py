"""The learners that the benches step and epoch compare: a stock fastai Learner, busfast's, and the bare loop."""

import time
from collections.abc import Sequence

import pandas as pd
import timm
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from PIL import Image

from busfast.data.table import CLASSES
from busfast.models.fast_step import ALL
from busfast.models.learner import cosine, make_learner
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.image import ImagePipeline

LR = 1e-3
SEED = 42


class Resident:
    """A DataLoader that hands out one batch again and again, so that loading costs nothing.

    Args:
        size: side of the images, pixels.
        bs: images a batch.
        steps: batches an epoch.
    """

    device = torch.device("cpu")

    def __init__(self, size: int, bs: int, steps: int, channels_last: bool):
        generator = torch.Generator().manual_seed(SEED)
        pixels = torch.rand(bs, 3, size, size, generator=generator) * 2 - 1
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.batch = pixels.contiguous(memory_format=layout), torch.arange(bs) % len(CLASSES)
        self.bs, self.steps = bs, steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        return (self.batch for _ in range(self.steps))

    def loaders(self) -> DataLoaders:
        """The same for a Learner."""
        return DataLoaders(self, self, device=self.device)


class Clock(Callback):
    """Takes the time of the training part of an epoch, and leaves validation out.

    Attributes:
        seconds: from the first batch being asked for to the last step being done.
    """

    order = 1000  # the last to see a step, the last before training begins

    def before_train(self):
        self.started = time.perf_counter()

    def after_train(self):
        self.seconds = time.perf_counter() - self.started

    def before_validate(self):
        raise CancelValidException


def stock_learner(dls: DataLoaders, arch: str) -> Learner:
    """What fastai's documentation leads to: a timm model in a Learner, everything else fastai's and torch's own."""
    torch.manual_seed(SEED)
    return Learner(dls, timm.create_model(arch, num_classes=len(CLASSES)), loss_func=CrossEntropyLossFlat())


def busfast_learner(arch: str, parts: Sequence[str] = ALL, dls=None) -> Learner:
    """busfast's Learner, as `train` makes it but for the start from random weights; on one blank image without dls."""
    if dls is None:
        rows = [{"image": Image.new("RGB", (1, 1)), "label": label, "part": part} for label in CLASSES
                for part in ("train", "valid")]
        table = pd.DataFrame(rows)
        table.attrs["root"] = "."
        dls = make_dls(table, ImagePipeline(), loader="torchvision", device="cpu")
    torch.manual_seed(SEED)
    return make_learner(dls, arch, weights="none", parts=parts)


def epoch_seconds(learn: Learner, clock: Clock | None = None) -> float:
    """Trains an epoch, with the callbacks of a run that cost something in each step; returns its seconds."""
    clock = clock or Clock()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[cosine(LR, 1e-6), clock])
    return clock.seconds


class BareLoop:
    """The ceiling: busfast's model with every part, stepping by itself on a resident batch.

    Args:
        arch: timm model.
        batches: the resident batch.
        autocast: whether the forward pass runs in bfloat16.
        foreach: Adam with torch's foreach kernels in place of the fused one.
        compiled: whether torch.compile has its turn with the model.
    """

    def __init__(self, arch: str, batches: Resident, *, autocast: bool = False, foreach: bool = False,
                 compiled: bool = False):
        learn = busfast_learner(arch)
        self.model, self.loss, self.batches, self.autocast = learn.model.train(), learn.loss_func, batches, autocast
        self.adam = torch.optim.Adam(self.model.parameters(), lr=LR, betas=(0.9, 0.99), eps=1e-5,
                                     **({"foreach": True} if foreach else {"fused": True}))
        if compiled:
            self.model = torch.compile(self.model)

    def seconds(self) -> float:
        """Steps through the batches; returns the seconds."""
        start = time.perf_counter()
        for x, y in self.batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
                loss = self.loss(self.model(x), y)
            loss.backward()
            self.adam.step()
            self.adam.zero_grad()
            float(loss)
        return time.perf_counter() - start
