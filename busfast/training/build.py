"""Configuration and split -> a Learner that is ready to train; what cannot be built is refused early."""

from pathlib import Path

import pandas as pd
import torch
from fastai.learner import Learner
from fastai.torch_core import set_seed

from busfast import processes
from busfast.data.split import Split
from busfast.models.arch import check_arch, check_size, make_timm
from busfast.models.freeze import freeze_stages
from busfast.models.learner import make_learner
from busfast.models.metrics import make_metrics
from busfast.models.optimizers import find_optimizer
from busfast.models.precision import has_bfloat16
from busfast.models.weights import StartWeights, make_model
from busfast.once import say
from busfast.pipelines.augmentations import named_augmentation
from busfast.pipelines.backends import REFERENCE, Backend, choose_backend
from busfast.pipelines.config import Config, changed_recipe
from busfast.pipelines.dali_check import check_dali
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.devices import DRIVER, why_no_cuda
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.read_images import with_classes
from busfast.pipelines.threads import use_threads
from busfast.training.distributed.store import check_processes


def check_environment(config: Config) -> Backend:
    """Refuses a missing model, stage, loader or device, and sizes and weights that the model cannot take, before any
    image is read.

    Returns:
        Device and loader, as `choose_backend` returns them.
    """
    arch, sides = check_arch(config.arch), (config.size, config.width or config.size)
    check_size(arch, sides)
    if config.freeze:
        freeze_stages(make_timm(arch), config.freeze, arch)
    backend = choose_backend(config.loader, config.device)
    check_processes(config, backend.device)
    if config.weights not in ("auto", "none"):
        make_model(arch, config.weights, sides=sides)
    return backend


def describe_device(device: torch.device, auto: bool) -> str:
    """Returns a device in words, with why it is not a GPU where that may surprise, and the precision of training."""
    text = device.type + (" (auto)" if auto else "")
    if device.type == "cuda":
        half = "bfloat16" if has_bfloat16() else "float16"
        return f"{text}, {torch.cuda.get_device_name(device)}; trains in {half}, validates in float32"
    return text + (f", not a GPU: {why_no_cuda()}" if auto and device.type == "cpu" and DRIVER.exists() else "")


def build(config: Config, split: Split | pd.DataFrame, model_dir: Path | str = "models",
          weights: StartWeights | None = None, backend: Backend | None = None) -> Learner:
    """Makes the Learner of a configuration; prints its device, loader and start weights, and why it has them.

    Args:
        config: the checked configuration.
        split: see `make_dls`.
        model_dir: where the Learner saves.
        weights: the start weights of a run that is continued; None: those of the configuration.
        backend: as `check_environment` returns it; None: chosen from the configuration.

    Returns:
        The Learner.
    """
    config = with_classes(config, split)
    backend, ranks = backend or choose_backend(config.loader, config.device), processes.world_size()
    if ranks > 1 and backend.device.type == "cuda":
        torch.cuda.set_device(processes.local_rank())
    say(f"device: {describe_device(backend.device, config.device == 'auto')}"
        + (f"; {ranks} processes share each batch of {config.bs}" if ranks > 1 else ""))
    say(f"loader: {backend.loader} ({backend.reason})"
        + (", for what is not in the cache" if config.cache != "off" else "")
        + ("; validation: Pillow" if backend.loader != REFERENCE else ""))
    use_threads(config.threads)
    set_seed(config.seed, reproducible=True)
    image, batch_tfms = named_augmentation(config.augment, ImagePipeline(
        config.size, config.resize, config.channels, config.hflip, config.vflip, config.rotate, width=config.width))
    threads = config.threads or (processes.cores_per_process(processes.local_world_size()) if ranks > 1 else 0)
    # Validation keeps no activations for a backward pass: twice as many images fit.
    dls = make_dls(split, image, classes=config.classes, label_delim=config.label_delim, bs=config.bs,
                   val_bs=2 * config.bs, backend=backend, threads=threads, cache=config.cache, batch_tfms=batch_tfms,
                   rank=processes.rank(), world_size=ranks)
    if backend.loader == "dali" and dls.train.prepare() is None:
        check_dali(dls.train.dataset.items["image"].tolist(), backend.device)
    learn = make_learner(dls, config.arch, weights=weights or config.weights, dropout=config.dropout, lr=config.lr,
                         wd=config.wd, freeze=0 if config.freeze_after else config.freeze,
                         loss=config.loss, label_smoothing=config.label_smoothing,
                         metrics=make_metrics(config.classes, config.metrics, config.monitor),
                         opt_func=find_optimizer(config.opt), path=".", model_dir=model_dir)
    say(f"model: {config.arch}; {learn.weights_used['text']}")
    if changed := changed_recipe(config):
        say(f"recipe: {', '.join(changed)}")
    return learn
