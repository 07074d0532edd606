"""busfast on a GPU, as far as that can be seen without one: right devices, right numbers, a host that does not wait.

Covers busfast/pipelines/transfer.py, busfast/pipelines/resident.py, busfast/models/precision.py and
busfast/models/rare_looks.py. tests/pretended_gpu.py says what it cannot see.
"""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback
from fastai.learner import Learner
from pretended_gpu import GPU, OnGpu, pretended_gpu

from busfast.cli import main
from busfast.models import learner as models
from busfast.models import rare_looks
from busfast.models.learner import make_learner
from busfast.models.precision import HalfPrecision
from busfast.pipelines import ImagePipeline, make_dls, resident
from busfast.training import callbacks
from busfast.training.guards import NonFiniteLoss, StopOnNaN
from busfast.training.runs import Run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: make test-gpu")
RUN = Run("phantom/stratified")
TRAIN = ["train", "--split=stratified"]


@pytest.fixture
def gpu():
    with pretended_gpu() as seen:
        yield seen
    assert not seen.doubles


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setattr(models, "mixed_precision", lambda device: [])


def watch(seen, monkeypatch) -> Counter:
    """Counts batches; the waits in each and on the way to it are of the phase "train" or "valid"."""
    batches = Counter()

    def one_batch(learn, number, batch, own=Learner.one_batch):
        seen.phase = "train" if learn.training else "valid"
        batches[seen.phase] += 1
        own(learn, number, batch)
        if number + 1 == learn.n_iter:
            seen.phase = "end of a part"

    monkeypatch.setattr(Learner, "one_batch", one_batch)
    return batches


def log(run=RUN) -> pd.DataFrame:
    return pd.read_csv(run.results / "training_log.csv").drop(columns="seconds")


def test_the_pretended_gpu_sees_what_a_gpu_would(gpu):
    x = torch.arange(4.0).to(GPU)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()
    gpu.waits.clear()
    (x + 1) * x.mean()
    torch.ones(4).pin_memory().to(GPU, non_blocking=True)
    assert not gpu.waits
    for wait in (lambda: x[0].item(), x.cpu, x.tolist, lambda: x[x > 1], lambda: torch.ones(4).to(GPU),
                 lambda: torch.ones(4).to(GPU, non_blocking=True), lambda: x[torch.tensor([0, 1])]):
        gpu.waits.clear()
        wait()
        assert sum(gpu.waits.values()) == 1
    x.double()
    assert len(gpu.doubles) == 1
    gpu.doubles.clear()


@pytest.mark.parametrize(("bf16", "flags", "waits"), [
    (True, [], 0), (False, [], 1), (True, ["--cache=off"], 0), (True, ["--profile", "--tta=flip"], 0)])
def test_a_training_on_the_gpu_keeps_the_host_free(workdir, monkeypatch, capsys, bf16, flags, waits):
    with pretended_gpu(bf16) as seen:
        batches = watch(seen, monkeypatch)
        assert main([*TRAIN, "--device=cuda", *flags]) == 0
    assert not seen.doubles and batches == {"train": 8, "valid": 2}
    counted = Counter()
    for (phase, _, _), count in seen.waits.items():
        counted[phase] += count
    assert counted["train"] <= waits * batches["train"] and not counted["valid"]  # float16: whether it overflowed
    out = capsys.readouterr().out
    assert f"pretended GPU; trains in {'bfloat16' if bf16 else 'float16'}, validates in float32" in out
    assert ("pixels: 76 images, 0.3 MB, in the GPU's memory" in out) == ("--cache=off" not in flags)
    assert np.isfinite(log().drop(columns="epoch").to_numpy()).all()


@pytest.mark.parametrize("flags", [[], ["--cache=off"], ["--opt=sgd", "--ema=0.9", "--accumulate=2"]])
def test_in_float32_the_gpu_gives_the_cpus_numbers(workdir, float32, flags):
    assert main([*TRAIN, *flags]) == 0
    with pretended_gpu() as seen:
        assert main([*TRAIN, "--device=cuda", *flags]) == 0
    assert not seen.doubles
    pd.testing.assert_frame_equal(log(), log(Run("phantom/stratified-2")), rtol=1e-3, atol=1e-5)


def test_a_training_in_float16_is_resumed_to_the_last_bit(workdir, monkeypatch):
    with pretended_gpu(bf16=False):
        assert main(TRAIN + ["--device=cuda", "--epochs=3"]) == 0
        whole, weights = log(), torch.load(RUN.models / "final.pth", weights_only=True)
        with monkeypatch.context() as patch:
            patch.setattr(callbacks.SaveFinal, "before_epoch", lambda self: 1 / (self.epoch < 2), raising=False)
            with pytest.raises(ZeroDivisionError):
                main(TRAIN + ["--device=cuda", "--epochs=3", "--pipeline=phantom"])
        assert main(TRAIN + ["--device=cuda", "--epochs=3", "--resume"]) == 0
    again = Run("phantom/stratified-2")
    pd.testing.assert_frame_equal(whole, log(again))
    resumed = torch.load(again.models / "final.pth", weights_only=True)
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_the_verbs_after_training_give_the_cpus_numbers(exported_run):
    model = "--model=models/phantom/stratified/bundle"
    files = {"results/phantom/stratified/metrics.csv": "evaluate --run=phantom/stratified --again",
             "results/phantom/stratified/localisation.csv": "explain --run=phantom/stratified",
             "out.csv": f"predict data/phantom/images {model} --out=out.csv --overwrite"}
    tables = []
    for device in ("cpu", "cuda"):
        with pretended_gpu() as seen:
            for verb in files.values():
                assert main([*verb.split(), f"--device={device}"]) == 0
        assert not seen.doubles
        tables.append([pd.read_csv(file) for file in files])
    for on_cpu, on_gpu in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(on_cpu, on_gpu, rtol=1e-4, atol=1e-5)


def dls_on_gpu(parts, tmp_path, **options):
    return make_dls(parts, ImagePipeline(size=SIZE), loader="torchvision", device="cuda",
                    **({"bs": 16, "cache": str(tmp_path / "cache")} | options))


def test_pixels_that_take_more_than_a_quarter_of_the_gpu_stay_on_the_disk(parts, tmp_path, gpu, monkeypatch, capsys):
    batches = []
    for share in (0.25, 0.0):
        monkeypatch.setattr(resident, "SHARE", share)
        dls = dls_on_gpu(parts, tmp_path)
        dls.train.rng.seed(1)
        batches.append([(x.cpu(), y.cpu()) for x, y in dls.train])
    out = capsys.readouterr().out
    assert "0.3 MB, in the GPU's memory" in out
    assert "from the cache on the disk: more than a quarter of the 75,162 MB that are free on the GPU" in out
    for (x, y), (same_x, same_y) in zip(*batches, strict=True):
        assert torch.equal(x, same_x) and torch.equal(y, same_y)


def test_a_rank_without_an_image_gets_an_empty_batch_and_in_training_no_batch(parts, tmp_path, gpu):
    for cache in ("off", str(tmp_path / "cache")):
        dls = dls_on_gpu(parts, tmp_path, bs=21, val_bs=11, rank=0, world_size=3, cache=cache)
        assert (len(dls.train_ds), len(dls.valid_ds)) == (64, 12)
        assert [len(x) for x, _ in dls.train] == [7, 7, 7]  # and not the 64th image by itself
        last = list(dls.valid)[-1]
        assert last[0].shape == (0, 3, SIZE, SIZE) and isinstance(last[0], OnGpu) and len(last[1]) == 0


class Spoil(Callback):
    def before_batch(self):
        if self.training and self.iter == 1:
            self.learn.xb = (self.xb[0] * math.nan,)
            self.expected = self.dl.dataset.items["image"].iloc[list(self.dl.indices)].tolist()


def test_a_loss_that_is_not_finite_is_found_later_and_its_own_batch_named(parts, tmp_path, gpu):
    learn = make_learner(dls_on_gpu(parts, tmp_path), ARCH, weights="none", path=tmp_path)
    spoil = Spoil()
    with learn.no_bar(), learn.no_logging(), pytest.raises(NonFiniteLoss, match="training loss became nan .* batch 2"):
        learn.fit(1, 1e-3, cbs=[spoil, StopOnNaN(tmp_path, 1e-3)])
    assert pd.read_csv(tmp_path / "bad_batch.csv")["image"].tolist() == spoil.expected


def test_the_recorder_has_the_losses_of_every_batch_on_the_cpu_and_the_bar_shows_some(parts, tmp_path, gpu,
                                                                                    monkeypatch):
    monkeypatch.setattr(rare_looks, "EVERY", 2)
    learn = make_learner(dls_on_gpu(parts, tmp_path), ARCH, weights="none", path=tmp_path)
    assert any(isinstance(cb, HalfPrecision) for cb in learn.cbs) and learn.progress.name == "progress"
    learn.fit(2, 1e-3)
    assert len(learn.recorder.losses) == 8 and not any(isinstance(loss, OnGpu) for loss in learn.recorder.losses)
    learn.recorder.plot_loss()
    losses, targets = learn.get_preds()
    assert losses.device.type == targets.device.type == "cpu" and losses.dtype == torch.float32
