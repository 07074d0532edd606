"""What the benches step and epoch compare: a stock fastai Learner, busfast's Learner, and a bare loop."""

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

from busfast.bench.machine import CPU
from busfast.data.table import CLASSES
from busfast.models.fast_step import ALL
from busfast.models.learner import make_learner
from busfast.models.schedules import cosine
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.devices import synchronize
from busfast.pipelines.image import ImagePipeline

LR = 1e-3
SEED = 42


class ResidentBatch:
    """A DataLoader that returns one batch in memory `steps` times an epoch, so that loading costs nothing."""

    def __init__(self, size: int, bs: int, steps: int, channels_last: bool, device: torch.device):
        generator = torch.Generator().manual_seed(SEED)
        pixels = torch.rand(bs, 3, size, size, generator=generator) * 2 - 1
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.batch = pixels.contiguous(memory_format=layout).to(device), (torch.arange(bs) % len(CLASSES)).to(device)
        self.bs, self.steps, self.device = bs, steps, device

    def __len__(self):
        return self.steps

    def __iter__(self):
        return (self.batch for _ in range(self.steps))

    def loaders(self) -> DataLoaders:
        """Returns DataLoaders of it, for a Learner."""
        return DataLoaders(self, self, device=self.device)


class TrainTimer(Callback):
    """Times the training part of epochs, from the request of the first batch to the end of the last step; skips
    validation."""

    order = 1000  # after all other callbacks

    def before_fit(self):
        self.seconds = 0.0

    def before_train(self):
        synchronize(self.dls.device)
        self.started = time.perf_counter()

    def after_train(self):
        synchronize(self.dls.device)
        self.seconds += time.perf_counter() - self.started

    def before_validate(self):
        raise CancelValidException


def stock_learner(dls: DataLoaders, arch: str) -> Learner:
    """Returns what fastai's documentation leads to: a timm model in a Learner with fastai's and torch's defaults."""
    torch.manual_seed(SEED)
    return Learner(dls, timm.create_model(arch, num_classes=len(CLASSES)), loss_func=CrossEntropyLossFlat())


def busfast_learner(arch: str, parts: Sequence[str] = ALL, dls=None, device: torch.device = CPU) -> Learner:
    """Returns busfast's Learner as `train` makes it, with random weights; without dls, on blank images."""
    if dls is None:
        rows = [{"image": Image.new("RGB", (1, 1)), "label": label, "part": part} for label in CLASSES
                for part in ("train", "valid")]
        dls = make_dls(pd.DataFrame(rows), ImagePipeline(), loader="torchvision", device=device.type)
    torch.manual_seed(SEED)
    return make_learner(dls, arch, weights="none", parts=parts)


def epoch_seconds(learn: Learner, epochs: int = 1) -> float:
    """Trains epochs, with the learning rate schedule of a run; returns their seconds."""
    timer = TrainTimer()
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=[cosine(LR, 1e-6), timer])
    return timer.seconds


class BareLoop:
    """The ceiling: busfast's model with every part of the fast step, in a bare loop on a resident batch.
    `autocast`: to bfloat16, as always on a GPU; `foreach`: Adam's foreach kernels in place of the fused one;
    `compiled`: torch.compile."""

    def __init__(self, arch: str, batches: ResidentBatch, *, autocast: bool = False, foreach: bool = False,
                 compiled: bool = False):
        learn = busfast_learner(arch, device=batches.device)
        self.model, self.loss, self.batches = learn.model.train(), learn.loss_func, batches
        self.autocast = autocast or batches.device.type == "cuda"
        self.adam = torch.optim.Adam(self.model.parameters(), lr=LR, betas=(0.9, 0.99), eps=1e-5,
                                     **({"foreach": True} if foreach else {"fused": True}))
        if compiled:
            self.model = torch.compile(self.model)

    def seconds(self) -> float:
        """Trains on the batches; returns the seconds."""
        device = self.batches.device
        synchronize(device)
        start = time.perf_counter()
        for x, y in self.batches:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast):
                loss = self.loss(self.model(x), y)
            loss.backward()
            self.adam.step()
            self.adam.zero_grad()
        synchronize(device)
        return time.perf_counter() - start
