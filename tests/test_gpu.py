"""busfast on a GPU: right devices, right numbers, and a host that does not wait.

Without a GPU, most tests run on a pretended one (tests/pretended_gpu.py says what it cannot see), and the others skip.
`make test-gpu` runs all of them on a GPU, in this order, each within its time. Covers busfast/pipelines/transfer.py,
busfast/pipelines/resident.py, busfast/models/precision.py and busfast/models/rare_looks.py.
"""

import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.optimizer import SGD
from pretended_gpu import GPU, pretended_gpu
from scipy.special import softmax

from busfast.bench.learners import ResidentBatch, busfast_learner, epoch_seconds
from busfast.cli import main
from busfast.inference.bundle import read_bundle
from busfast.inference.engines import TorchEngine
from busfast.models import learner as models
from busfast.models import rare_looks
from busfast.models.fast_step import ALL
from busfast.models.learner import make_learner
from busfast.models.precision import HalfPrecision
from busfast.pipelines import ImagePipeline, make_dls, resident
from busfast.pipelines.augment import affine_matrices, augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.devices import choose_device
from busfast.pipelines.image import sample_augmentation
from busfast.pipelines.transfer import send, send_ahead
from busfast.training import callbacks
from busfast.training.guards import NonFiniteLoss, StopOnNaN
from busfast.training.runs import Run

HERE = torch.cuda.is_available()
PRETENDED = pytest.param("pretended", marks=pytest.mark.skipif(HERE, reason="there is a GPU here: make test-gpu"))
REAL = pytest.param("real", marks=[pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no NVIDIA GPU here")])
RUN = Run("phantom/stratified")
TRAIN = ["train", "--split=stratified", "--device=cuda"]
SECONDS = 120  # that a test on a GPU may take


@pytest.fixture(params=[PRETENDED, REAL])
def gpu(request):
    """A GPU, or what is pretended to be one; yields `Seen`, or None."""
    if request.param == "real":
        with time_limit():
            yield None
        return
    with pretended_gpu(bf16=request.param == "pretended") as seen:
        yield seen
    assert not seen.doubles


@pytest.fixture(params=[PRETENDED])
def pretended(request):
    with pretended_gpu() as seen:
        yield seen
    assert not seen.doubles


@pytest.fixture(params=[REAL])
def real(request):
    with time_limit():
        yield


@contextmanager
def time_limit():
    def stop(number, frame):
        raise TimeoutError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_on_the_gpu_is_that_of_the_cpu(gpu, count, channels):
    rng, image = np.random.default_rng(count), ImagePipeline(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), vflip=0.5)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 48, 64, channels), np.uint8))
    matrices = affine_matrices(sample_augmentation(image, count, rng), 48, 64)
    expected = augment_and_normalize(pixels, image, matrices)
    made = augment_and_normalize(send(pixels, GPU), image, send(matrices, GPU))
    assert made.device == GPU and made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made.cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_dali_on_the_gpu_makes_the_reference_pixels_of_every_odd_image(real, odd_images, resize, channels):
    pytest.importorskip("nvidia.dali")
    image, paths = ImagePipeline(96, resize, channels), list(odd_images.values())
    batches = [paths[start:start + 4] for start in range(0, len(paths), 4)]
    on_gpu, reference = (torch.cat([batch.cpu().expand(-1, -1, -1, 3) for batch in LOADERS[loader](
        image, 4, GPU, 2, True).batches(batches)]).float() for loader in ("dali", "torchvision"))
    apart = (on_gpu - reference).abs().mean(dim=(1, 2, 3))
    print("apart from the reference, of 255:", *map("{0[0]}: {0[1]:.2f}".format, zip(odd_images, apart, strict=True)))
    assert apart.max() < 1


def test_batches_arrive_whole_while_the_gpu_is_far_behind(real):
    rng = np.random.default_rng(0)
    batches = [torch.from_numpy(rng.integers(0, 256, (32, 96, 96, 1), np.uint8)) for _ in range(500)]
    sums = []
    for batch in send_ahead(iter(batches), GPU):
        torch.cuda._sleep(2_000_000)  # cycles: about a millisecond
        sums.append(batch.long().sum())
        del batch
    assert torch.stack(sums).tolist() == [int(batch.long().sum()) for batch in batches]


def test_a_step_in_float32_is_that_of_the_cpu(gpu):
    made = []
    for device in (torch.device("cpu"), GPU):
        learn = busfast_learner(ARCH, tuple(set(ALL) - {"amp"}), device=device)
        learn.model.drop_rate, learn.opt_func = 0.0, partial(SGD, mom=0)
        learn.dls = ResidentBatch(SIZE, 16, 1, True, device).loaders()
        epoch_seconds(learn)
        made.append([learn.recorder.losses[0], *(param.detach().cpu() for param in learn.model.parameters())])
    for on_cpu, on_gpu in zip(*made, strict=True):
        torch.testing.assert_close(on_cpu, on_gpu, rtol=1e-3, atol=1e-4)


def test_in_half_precision_the_loss_falls_and_no_step_waits(real, parts, tmp_path):
    learn = make_learner(dls_on_gpu(parts, tmp_path), ARCH, weights="none", path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)  # compiles, allocates
        learn.fit(8, 1e-3, cbs=RefuseWaits())
    losses = torch.stack(list(learn.recorder.losses))
    assert losses.isfinite().all() and losses[-4:].mean() < losses[:4].mean()


class RefuseWaits(Callback):
    """From the first batch of a part to the last one, a wait of the host is an error."""

    order = -1000

    def before_batch(self):
        torch.cuda.set_sync_debug_mode("error" if self.iter + 1 < self.n_iter else "default")

    after_train = after_validate = after_cancel_fit = lambda self: torch.cuda.set_sync_debug_mode("default")


def test_folding_and_the_gpu_move_no_probability(gpu, exported_run):
    bundle = read_bundle(Path("models/phantom/stratified/bundle"))
    paths = sorted(Path("data/phantom/images").iterdir())[:8]
    made = []
    for device in (torch.device("cpu"), choose_device("cuda")):
        engine = TorchEngine(bundle.model(), bundle.image, device)
        images = [engine.read(path) for path in paths]
        made.append(softmax(engine.infer(images).logits, axis=1))
        x = augment_and_normalize(send(collate(images), device), bundle.image)
        with torch.no_grad():
            made.append(engine.model(x).softmax(dim=1).cpu().numpy())
    assert max(np.abs(one - made[0]).max() for one in made) < 1e-4


def test_the_pretended_gpu_sees_what_a_gpu_would(pretended):
    x = torch.arange(4.0).to(GPU)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()
    pretended.waits.clear()
    (x + 1) * x.mean()
    torch.ones(4).pin_memory().to(GPU, non_blocking=True)
    assert not pretended.waits
    for wait in (lambda: x[0].item(), x.cpu, x.tolist, lambda: x[x > 1], lambda: torch.ones(4).to(GPU),
                 lambda: torch.ones(4).to(GPU, non_blocking=True), lambda: x[torch.tensor([0, 1])]):
        pretended.waits.clear()
        wait()
        assert sum(pretended.waits.values()) == 1
    x.double()
    assert len(pretended.doubles) == 1
    pretended.doubles.clear()


@pytest.mark.parametrize(("bf16", "flags", "waits"), [
    (True, [], 0), (False, [], 1), (True, ["--cache=off"], 0), (True, ["--profile", "--tta=flip"], 0)])
@pytest.mark.skipif(HERE, reason="there is a GPU here: make test-gpu")
def test_a_training_on_the_gpu_keeps_the_host_free(workdir, monkeypatch, capsys, bf16, flags, waits):
    with pretended_gpu(bf16) as seen:
        batches = watch(seen, monkeypatch)
        assert main([*TRAIN, *flags]) == 0
    assert not seen.doubles and batches == {"train": 8, "valid": 2}
    counted = Counter()
    for (phase, _, _), count in seen.waits.items():
        counted[phase] += count
    assert counted["train"] <= waits * batches["train"] and not counted["valid"]  # float16: whether it overflowed
    out = capsys.readouterr().out
    assert f"pretended GPU; trains in {'bfloat16' if bf16 else 'float16'}, validates in float32" in out
    assert ("pixels: 76 images, 0.3 MB, in the GPU's memory" in out) == ("--cache=off" not in flags)
    assert np.isfinite(log().drop(columns="epoch").to_numpy()).all()


@pytest.mark.skipif(HERE, reason="there is a GPU here: make test-gpu")
@pytest.mark.parametrize("flags", [[], ["--cache=off"], ["--opt=sgd", "--ema=0.9", "--accumulate=2"]])
def test_in_float32_the_gpu_gives_the_cpus_numbers(workdir, float32, flags):
    for device, place in (("cpu", nullcontext()), ("cuda", pretended_gpu())):
        with place:
            assert main([*TRAIN[:2], f"--device={device}", *flags]) == 0
    pd.testing.assert_frame_equal(log(), log(Run("phantom/stratified-2")), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gpu", [pytest.param("float16", marks=PRETENDED.marks), REAL], indirect=True)
def test_a_training_is_resumed_to_the_last_bit(gpu, workdir, monkeypatch):
    train = [*TRAIN, "--epochs=3"]
    assert main(train) == 0
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SaveFinal, "before_epoch", lambda self: 1 / (self.epoch < 2), raising=False)
        with pytest.raises(ZeroDivisionError):
            main([*train, "--pipeline=phantom"])
    assert main([*train, "--resume"]) == 0
    again = Run("phantom/stratified-2")
    pd.testing.assert_frame_equal(log(), log(again))
    weights, resumed = (torch.load(run.models / "final.pth", weights_only=True) for run in (RUN, again))
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_the_verbs_after_training_give_the_cpus_numbers(gpu, exported_run):
    model = "--model=models/phantom/stratified/bundle"
    files = {"results/phantom/stratified/metrics.csv": "evaluate --run=phantom/stratified --again",
             "results/phantom/stratified/localisation.csv": "explain --run=phantom/stratified",
             "out.csv": f"predict data/phantom/images {model} --out=out.csv --overwrite"}
    tables = []
    for device in ("cpu", "cuda"):
        for verb in files.values():
            assert main([*verb.split(), f"--device={device}"]) == 0
        tables.append([pd.read_csv(file) for file in files])
    for on_cpu, on_gpu in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(on_cpu, on_gpu, rtol=1e-3, atol=1e-4)


def test_the_verbs_run_on_the_gpu_from_the_command_line(real, workdir):
    for verb in ([*TRAIN, "--loader=auto", "--cache=off"], "evaluate --run=phantom/stratified".split(),
                 "export --run=phantom/stratified".split(), "report --run=phantom/stratified".split(),
                 "predict data/phantom/images --model=models/phantom/stratified/bundle".split()):
        subprocess.run([sys.executable, "-m", "busfast", *verb], check=True,
                       env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})


def test_too_little_memory_is_said_with_a_batch_size_that_fits(real, workdir, capsys):
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        assert main([*TRAIN, "--bs=64", "--size=512"]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "Out of memory with --bs=64" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_two_gpus_train_one_model(real, workdir):
    assert main(TRAIN) == 0
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "busfast", *TRAIN],
                   check=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    pd.testing.assert_frame_equal(log(), log(Run("phantom/stratified-2")), rtol=0.05, atol=0.05)


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
    assert re.search("from the cache on the disk: more than a quarter of the [0-9,]+ MB that are free on the GPU", out)
    for (x, y), (same_x, same_y) in zip(*batches, strict=True):
        assert torch.equal(x, same_x) and torch.equal(y, same_y)


def test_a_rank_without_an_image_gets_an_empty_batch_and_in_training_no_batch(parts, tmp_path, gpu):
    for cache in ("off", str(tmp_path / "cache")):
        dls = dls_on_gpu(parts, tmp_path, bs=21, val_bs=11, rank=0, world_size=3, cache=cache)
        assert (len(dls.train_ds), len(dls.valid_ds)) == (64, 12)
        assert [len(x) for x, _ in dls.train] == [7, 7, 7]  # and not the 64th image by itself
        last = list(dls.valid)[-1]
        assert last[0].shape == (0, 3, SIZE, SIZE) and last[0].device == GPU and len(last[1]) == 0


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
    assert len(learn.recorder.losses) == 8 and {loss.device.type for loss in learn.recorder.losses} == {"cpu"}
    learn.recorder.plot_loss()
    losses, targets = learn.get_preds()
    assert losses.device.type == targets.device.type == "cpu" and losses.dtype == torch.float32
