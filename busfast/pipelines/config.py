"""The settings of a training, checked: one experiment, all of it in one flat list."""

import os
from dataclasses import dataclass, fields
from typing import Any

from busfast.errors import UserError, check_range, suggest, suggest_path
from busfast.pipelines.settings import check_settings, describe, format_value, setting
from busfast.text import SIGNS, is_class_name
from busfast.timm_names import OPTIMIZER, names_without

LOADERS = ("auto", "dali", "torchvision")
DEVICES = ("auto", "cuda", "mps", "cpu")
OPTIMIZERS = ("adam", "adamw", "sgd")  # busfast's and fastai's; any other name is timm's
# Names of scikit-learn's scorers that are no column of the log already; higher is better.
SCORERS = ("balanced_accuracy", "f1_macro", "f1_weighted", "precision_macro", "jaccard_macro",
           "matthews_corrcoef", "neg_log_loss", "roc_auc_ovo", "roc_auc_ovr_weighted")
SCHEDULES = ("cosine", "one_cycle", "flat_cos")
LOSSES = ("auto", "weighted", "cross_entropy", "focal", "bce")
TTA = ("none", "flip")
AUGMENTATIONS: dict[str, tuple[str, ...]] = {"none": (), "light": ("flip", "rotate")}
AUGMENTATIONS["standard"] = (*AUGMENTATIONS["light"], "zoom", "brightness", "contrast")
AUGMENTATIONS["strong"] = (*AUGMENTATIONS["standard"], "crop", "erase", "blur")
# Time to quality: what few epochs need is more steps (smaller batches) that are smaller; the first stages, which take
# the most time, have learned what they can from the images after one of them (Brock et al. 2017, "FreezeOut", arXiv
# 1706.04983). Growing sizes, or training at other sizes than the model is used at, cost more AUC than it saved time
# (docs/performance.md).
def _fast(config: "Config") -> dict[str, Any]:
    return {"epochs": 4, "size": max(32, config.size * 6 // 7 // 8 * 8),
            "width": config.width and max(32, config.width * 6 // 7 // 8 * 8), "bs": 16, "lr": 6e-4, "freeze": 4,
            "freeze_after": 1}


# The mean of three trainings and of mirrored images gains most, also at a center that the model has not seen; longer
# trainings of small images gain nothing there (docs/travel.md).
PRESETS = {"fast": _fast, "best": lambda config: _fast(config) | {"tta": "flip"}}
MEMBERS = {"best": 3}  # presets of which `train` makes an ensemble -> how many seeds
# What is said of a run where it is not the default.
RECIPE = ("augment", "opt", "schedule", "warmup", "lr_mult", "unfreeze_after", "accumulate", "clip", "ema", "loss",
          "label_smoothing", "mixup", "cutmix", "tta", "metrics", "label_delim")
MEASURES = ("train_loss", "val_loss", "val_acc", "macro_auc")  # logged columns, besides recall_CLASS


def _sources(config: "Config") -> list[str]:
    from busfast.data.generators import GENERATORS  # imported here, as what it needs is heavy: --help reads the fields
    return ["", *GENERATORS]


def _splits(config: "Config") -> list[str]:
    from busfast.data.split import SPLITS
    return list(SPLITS)


def _optimizers(config: "Config") -> list[str]:
    if config.opt in OPTIMIZERS:
        return list(OPTIMIZERS)
    names = names_without(config.opt, "optim", OPTIMIZER)
    if not names:
        from timm.optim import list_optimizers
        names = list_optimizers()
    return [*OPTIMIZERS, *(name for name in names if not name.startswith(("bnb", "fused")))]  # need their own packages


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, checked. The defaults are those of the BTXRD experiment."""

    data: str = setting("", "the images: a folder with one folder per class, or with table.csv, or a CSV file")
    source: str = setting("", "what makes the data folder if it is missing: phantom, or '' for nothing",
                          choices=_sources, flag=False)
    classes: tuple[str, ...] = setting((), "the labels, in the model's order, and no others; default: those of the "
                                           "images", flag=False)
    label_delim: str = setting("", "character between the labels of an image that has several; training is then "
                                   "multi-label", flag=True)
    positive: str = setting("", "the class whose sensitivity and thresholds are reported; default: malignant, else of "
                                "two classes the one beside normal, healthy, control, negative or no finding; else "
                                "evaluate asks",
                            choices=lambda config: config.classes if config.positive and config.classes
                            else (config.positive,))
    splits: tuple[str, ...] = setting(("stratified", "center_holdout"), "what --split=all trains, in turn",
                                      choices=_splits, flag=False)
    valid_share: float = setting(0.15, "share of the validation part", low=0.01, high=0.9)
    test_share: float = setting(0.15, "share of the test part, where the split does not say it", low=0.01, high=0.9)
    holdout: tuple[str, ...] = setting((), "centers to hold out as the test part of center_holdout, separated by "
                                           "commas; if empty, chosen from the table")
    folds: int = setting(5, "number of folds of kfold", low=2, high=1000)
    size: int = setting(224, "side of the model's square input, pixels", low=32, high=2048)
    width: int = setting(0, "width of an input that is not square, pixels; size is then its height; 0: as size", low=0,
                         high=2048)
    resize: str = setting("squash", "how an image is made square", choices=("squash", "crop", "pad"), flag=False)
    channels: str = setting("rgb", "color, or gray to drop it", choices=("rgb", "gray"), flag=False)
    augment: tuple[str, ...] = setting(
        ("light",), "training augmentation; light: hflip, vflip and rotate; standard: zoom, brightness and contrast, "
        "too; strong: random crops, erasing and blur, too; or parts of these, separated by commas",
        choices=(*AUGMENTATIONS, *AUGMENTATIONS["strong"], "warp"))
    hflip: float = setting(0.5, "probability of a left-right flip in training", low=0, high=1, flag=False)
    vflip: float = setting(0.0, "probability of an upside-down flip in training", low=0, high=1, flag=False)
    rotate: float = setting(15.0, "training rotates by a random angle from -rotate to rotate, degrees",
                            low=0, high=180, flag=False)
    arch: str = setting("efficientnet_b0", "any timm model")
    weights: str = setting("auto", "start weights: auto (pretrained ones if there are any), none (random), or a file "
                                   "(safetensors, or a checkpoint readable with weights_only=True)")
    dropout: float = setting(0.2, "dropout before the classifier", low=0, high=0.99, flag=False)
    freeze: int = setting(0, "number of the model's first stages that are frozen; the stem is the first",
                          low=0, high=100)
    freeze_after: int = setting(0, "number of epochs before these stages are frozen",
                                low=0, high=100_000)
    unfreeze_after: int = setting(0, "number of epochs, at first, that train only the classifier", low=0, high=100_000)
    epochs: int = setting(50, "number of epochs; the learning rate falls over all of them", low=1, high=100_000)
    bs: int = setting(32, "images per batch", low=2, high=65_536)
    accumulate: int = setting(1, "batches whose gradients are added up for a step", low=1, high=10_000)
    opt: str = setting("adam", "optimizer: adam (L2 weight decay), adamw, sgd (momentum 0.9), or any of timm's",
                       choices=_optimizers)
    schedule: str = setting("cosine", "how the learning rate changes; cosine falls from lr to lr_min, one_cycle rises "
                                      "for a quarter of the training first, flat_cos falls in the last quarter",
                            choices=SCHEDULES)
    lr: float = setting(1e-3, "the highest learning rate", low=1e-12, high=100)
    lr_min: float = setting(1e-6, "learning rate at the end, at most lr", low=0, high=100)
    lr_mult: float = setting(1.0, "early layers have the learning rate divided by this (fastai's slice)", low=1,
                             high=10_000)
    warmup: int = setting(0, "number of epochs, at first, in which the learning rate rises to lr", low=0, high=100_000)
    clip: float = setting(0.0, "largest norm of the gradients of a step; 0: any", low=0, high=1e6)
    ema: float = setting(0.0, "share that a step keeps of a moving average of the weights, which is then validated and "
                              "saved; 0: off", low=0, high=0.99999)
    loss: str = setting("auto", "weighted cross-entropy (auto), without class weights, focal (gamma 2), or bce (each "
                                "class against the rest; auto of several labels)", choices=LOSSES)
    wd: float = setting(1e-4, "weight decay", low=0, high=10, flag=False)
    label_smoothing: float = setting(0.0, "share of a label that is spread over all classes in the loss", low=0,
                                     high=0.99)
    mixup: float = setting(0.0, "alpha of mixup: each training image is blended with another of its batch; 0: off",
                           low=0, high=100)
    cutmix: float = setting(0.0, "alpha of CutMix: a part of each training image is from another; 0: off", low=0,
                            high=100)
    tta: str = setting("none", "flip: probabilities are the mean of an image and its mirror image, wherever the model "
                               "is used", choices=TTA)
    metrics: tuple[str, ...] = setting((), "further columns of the log: scikit-learn's scorers, separated by commas",
                                       choices=SCORERS)
    patience: int = setting(7, "epochs without a better monitor before training stops", low=1, high=100_000)
    monitor: str = setting("val_loss", "logged column that chooses the best epoch: val_loss, val_acc, macro_auc, "
                                       "recall_CLASS, one of metrics or train_loss",
                           choices=lambda config: config.measures)
    seed: int = setting(42, "seed of split, weights, order and augmentation", low=0, high=2**32 - 1)
    split_seed: int = setting(-1, "seed of the split only; -1: the same as seed", low=-1, high=2**32 - 1)
    loader: str = setting("auto", "what decodes training images (validation images always by Pillow)",
                          choices=LOADERS)
    device: str = setting("auto", "device that the model runs on", choices=DEVICES)
    threads: int = setting(0, "threads that decode images, and that torch computes with; 0: one per core, or "
                              "OMP_NUM_THREADS for torch", low=0, high=1024)
    cache: str = setting("auto", "where decoded pixels are kept for later epochs and runs: auto (this user's cache "
                                 "folder), off, or a folder")

    def __post_init__(self):
        check_settings(self)
        check_range("lr_min", self.lr_min, 0, self.lr, "lr")
        if 0 < self.width < 32:
            raise UserError(f"width={self.width} is out of range: give a number from 32 to 2048, or 0 for a square.")
        self._check_recipe()
        if not self.splits:
            raise UserError(f"splits=[] names nothing to train. Choose from: {', '.join(_splits(self))}.")
        if not self.cache:
            raise UserError("cache='' names no folder. Use auto, off or a folder.")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise UserError(f"classes={list(self.classes)} must name two classes or more, each once.")
        for label in self.classes:
            if not is_class_name(label):
                raise UserError(f"The class name '{label}' must begin with a letter or digit, and consist of these, _ "
                                f"and {' '.join(SIGNS.strip())} and spaces. Rename the class.")

    def _check_recipe(self) -> None:
        """Refuses settings that contradict each other."""
        if self.mixup and self.cutmix:
            raise UserError(f"mixup={self.mixup:g} and cutmix={self.cutmix:g} both mix the images of a batch. Set "
                            "one of them to 0.")
        if not self.augment:
            raise UserError("augment= names nothing. For no augmentation: augment=none.")
        for part, settings in (("flip", ("hflip", "vflip")), ("rotate", ("rotate",))):
            if part in self.augment and not any(getattr(self, name) for name in settings):
                raise UserError(f"augment={','.join(self.augment)}: {' and '.join(settings)} are 0, so there is no "
                                f"{part}. Set {settings[0]}, or leave out {part}.")
        if levels := [name for name in self.augment if name in AUGMENTATIONS] if len(self.augment) > 1 else []:
            raise UserError(f"augment={','.join(self.augment)}: '{levels[0]}' is a whole level. Give it alone, or list "
                            "parts.")
        if self.warmup and self.schedule == "one_cycle":
            raise UserError(f"warmup={self.warmup}: one_cycle begins with a warm-up of its own. Leave one of them out.")
        for name in ("warmup", "unfreeze_after", "freeze_after"):
            if 0 < self.epochs <= getattr(self, name):
                frozen = " (frozen from the first epoch on)" if name == "freeze_after" and self.freeze else ""
                raise UserError(f"{name}={getattr(self, name)} must be less than epochs={self.epochs}. Give more "
                                f"epochs, or --{name}=0{frozen}.")
        if self.freeze_after and self.unfreeze_after > self.freeze_after:
            raise UserError(f"unfreeze_after={self.unfreeze_after} would train stages that freeze_after="
                            f"{self.freeze_after} has frozen. Give unfreeze_after up to {self.freeze_after}.")
        if self.valid_share + self.test_share > 0.95:
            raise UserError(f"valid_share={self.valid_share:g} and test_share={self.test_share:g} leave nothing to "
                            "train on. Their sum may be 0.95.")
        if self.label_smoothing and self.loss == "focal":
            raise UserError(f"label_smoothing={self.label_smoothing:g} has no meaning for loss=focal. Set one of them "
                            "back.")
        if self.label_delim:
            self._check_multi_label()

    def _check_multi_label(self) -> None:
        if len(self.label_delim) != 1 or self.label_delim.isalnum():
            raise UserError(f"label_delim='{self.label_delim}' is not one character that no label has, such as ';'.")
        if self.loss not in ("auto", "bce"):
            raise UserError(f"loss={self.loss} is for images of one label; label_delim='{self.label_delim}' means "
                            "several. Use loss=bce.")
        for name in ("positive", "label_smoothing", "mixup", "cutmix", "metrics"):
            if value := getattr(self, name):
                raise UserError(f"{name}={format_value(value)} is not possible with label_delim='{self.label_delim}' "
                                "(several labels an image). Leave it out.")

    @property
    def measures(self) -> tuple[str, ...]:
        """The logged columns that measure the model; `monitor` is one of them."""
        measures = (*MEASURES, *self.metrics)
        if not self.classes and self.monitor.startswith("recall_"):
            return (*measures, self.monitor)  # checked when the classes are known
        return (*measures, *(f"recall_{name}" for name in self.classes))


Config.__doc__ = "\n".join([f"{Config.__doc__}\n\n    Attributes:",
                            *(f"        {item.name}: {describe(item)}" for item in fields(Config))])


def require_weights(weights: str) -> None:
    """Refuses start weights that are no choice and no file; `Config` takes them, as a finished run's may be gone."""
    if weights not in ("auto", "none") and not os.path.isfile(weights):  # False, too, for a name that no file can have
        hint = suggest(weights, ("auto", "none")) or suggest_path(weights, os.path.isfile)
        raise UserError(f"There is no weights file '{weights}'.{hint} Use auto (pretrained weights of timm's hub are "
                        "chosen by --arch=NAME.TAG), none, or an existing file.")


def changed_recipe(config: Config) -> list[str]:
    """Returns which settings of `RECIPE` are not the default, such as "mixup 0.4"."""
    return [f"{name} {format_value(getattr(config, name))}" for name in RECIPE
            if getattr(config, name) != getattr(Config, name)]
