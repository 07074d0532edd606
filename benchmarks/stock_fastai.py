"""The published recipe as fastai's documentation writes it, for benchmarks/quality.py to compare with.

    python benchmarks/stock_fastai.py --data=data/bus --seed=45 --out=FOLDER

EfficientNet-B0 at 224 px, batches of 32, 5 epochs: squash, flip, rotation by up to 15 degrees, weighted cross-entropy,
Adam, a cosine from 1e-3, the best epoch by validation loss. Split and start weights are busfast's.
Writes training_log.csv (epoch, macro_auc and seconds, of the best epoch alone) and summary.yaml, as a run has them.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import SaveModelCallback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, ResizeMethod, aug_transforms
from fastai.vision.data import ImageDataLoaders

from busfast.data import read_table, split_table
from busfast.models.losses import class_weights
from busfast.models.metrics import macro_auc
from busfast.models.weights import make_model

ARCH, EPOCHS, SIZE, BS, LR, LR_MIN, WD, DROPOUT = "efficientnet_b0", 5, 224, 32, 1e-3, 1e-6, 1e-4, 0.2


def train(data: str, seed: int, out: Path, arch: str = ARCH, epochs: int = EPOCHS, size: int = SIZE) -> None:
    """Trains the recipe on the stratified split of a data folder and writes its score.

    Args:
        data: folder with table.csv and the images.
        seed: of split, order and augmentation.
        out: an existing folder to write to.
        arch, epochs, size: of the recipe; smaller in tests.
    """
    split = split_table(read_table(data), "stratified", seed=seed)
    rows = split.rows[split.rows["part"] != "test"].assign(is_valid=lambda rows: rows["part"] == "valid")
    classes = list(dict.fromkeys(sorted(rows["label"])))
    set_seed(seed, reproducible=True)
    model, start = make_model(arch, "auto", len(classes), DROPOUT)
    augmentation = aug_transforms(max_rotate=15, max_zoom=1, max_lighting=0, max_warp=0, p_affine=1)
    dls = ImageDataLoaders.from_df(
        rows, split.root, fn_col="image", label_col="label", valid_col="is_valid", bs=BS, seed=seed,
        item_tfms=Resize(size, method=ResizeMethod.Squish), device=torch.device("cpu"),
        batch_tfms=[*augmentation, Normalize.from_stats(start.mean, start.std, cuda=False)])
    weight = class_weights(rows.loc[~rows["is_valid"], "label"].tolist(), list(dls.vocab))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(weight=weight), wd=WD, path=out, model_dir=".",
                    opt_func=partial(Adam, decouple_wd=False))
    best, began = SaveModelCallback(), time.monotonic()
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, LR, cbs=[best, ParamScheduler({"lr": SchedCos(LR, LR_MIN)})])
        seconds = time.monotonic() - began
        probabilities, targets = learn.get_preds()
    auc = macro_auc(probabilities.numpy(), targets.numpy())
    pd.DataFrame([{"epoch": 1, "macro_auc": auc, "seconds": seconds}]).to_csv(out / "training_log.csv", index=False)
    (out / "summary.yaml").write_text("best_epoch: 1\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python benchmarks/stock_fastai.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with table.csv and the images")
    parser.add_argument("--seed", type=int, required=True, help="of split, order and augmentation")
    parser.add_argument("--out", type=Path, required=True, help="existing folder to write to")
    train(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
