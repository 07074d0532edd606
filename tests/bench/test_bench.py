"""A bench measures what it says, from the command line to the report.

Covers busfast/bench/__init__.py, busfast/bench/epoch.py, busfast/bench/fastai.py, busfast/bench/guests.py,
busfast/bench/images.py, busfast/bench/job.py, busfast/bench/learners.py, busfast/bench/loaders.py,
busfast/bench/machine.py, busfast/bench/ours.py, busfast/bench/peers.py, busfast/bench/predict.py and
busfast/bench/step.py.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH
from PIL import Image
from pretended_gpu import pretended_gpu

from busfast.bench import STUDIES, WHATS, arena, bench, epoch, fastai, images, job, loaders, predict, step
from busfast.cli import parse
from busfast.errors import UserError
from busfast.imports import is_installed
from busfast.pipelines import resident

TINY = {"size": "32", "bs": "2", "rounds": "1", "device": "cpu"}


@pytest.fixture
def small_images(monkeypatch, tmp_path):
    """Images that are made in no time, and a folder of the test's own to work in."""
    monkeypatch.setattr(images, "WIDTH", 48)
    monkeypatch.setattr(images, "HEIGHT", 64)
    monkeypatch.setattr(images, "PHOTOGRAPH", (60, 45))
    monkeypatch.setattr(job, "MIN_SECONDS", 0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_one_process(monkeypatch):
    """Contenders measure once, here: starting processes that import fastai is what takes the time."""
    def compete(contenders, rounds, at_once=2):
        return [arena.Outcome(one.name, [ready.measure()], ready.facts, 1_000_000, 1_000_000)
                for one in contenders for ready in [one.make(**one.settings)]]

    for module in (epoch, fastai, loaders, predict, step):
        monkeypatch.setattr(module, "compete", compete)


def test_a_contender_that_delivers_something_else_is_refused(tmp_path):
    four = images.Images("", ("x",) * 4, ("x",) * 4, ("a", "b") * 2, "")
    asked = job.Job(four, 32, 2, 0, str(tmp_path))
    good = torch.rand(2, 3, 32, 32) * 2 - 1
    job.check_batch(asked, good)
    for wrong in (good[:1], good[:, :1], good.double(), good * 100, torch.zeros_like(good), good * float("nan")):
        with pytest.raises(UserError, match="deliver|its pixels lie"):
            job.check_batch(asked, wrong)


def test_images_are_gray_seeded_and_have_a_table(tmp_path, small_images):
    first = images.gather(None, 5, tmp_path / "a")
    again = images.gather(None, 5, tmp_path / "b")
    assert [Path(path).read_bytes() for path in first.paths] == [Path(path).read_bytes() for path in again.paths]
    assert len({Path(path).read_bytes() for path in first.paths}) == 5
    assert {Image.open(path).mode for path in first.paths} == {"L"}
    assert first.parts().rows["part"].value_counts().to_dict() == {"train": 5, "valid": 5}


def test_the_bone_is_brighter_than_the_flesh_and_the_flesh_than_the_air():
    pixels = np.asarray(images.draw_radiograph(0)).astype(float)
    middle = pixels[len(pixels) // 2]
    assert middle.max() > 150 > 100 > np.median(middle) > 25 > middle[:20].mean()


def test_bench_loaders_writes_table_page_and_chart(small_images, capsys):
    bench("loaders", images="5", threads="1", only="torch Pillow,FFCV", **TINY)
    table = pd.read_csv("results/bench/loaders.csv")
    assert list(table) == ["name", "img_per_s", "img_per_s_iqr", "ratio", "apart", "memory_mb"]
    assert table["name"][0] == "torch Pillow" and table["img_per_s"][0] > 0 and table["apart"][0] < 1
    page = Path("results/bench/loaders.md").read_text()
    assert "python -m busfast bench loaders --images=5 --size=32" in page and "Machine: " in page
    assert "| busfast cached / torch Pillow |" in page and "not measured: busfast cached" in page
    assert len(table) == 2 or "FFCV raw 256 px: not installed: pip install ffcv" in page
    assert Image.open("results/bench/loaders.png").width > 600
    out, errors = capsys.readouterr()
    assert "wrote results/bench/loaders.csv" in out and "\r" not in out + errors, "a bar in a plain file"


def test_every_loader_that_is_installed_delivers_what_it_should(tmp_path, small_images):
    five = images.gather(None, 5, tmp_path / "images")
    listed = loaders.contenders(job.Job(five, 32, 2, 0, str(tmp_path)))
    assert {"fastai DataBlock", "fastai RandomResizedCrop", "torch Pillow", "torch torchvision", "timm", "raw DALI",
            "busfast uncached", "busfast cached"} <= {one.name for one in listed}
    same = set()
    for one in listed:
        if all(map(is_installed, one.packages)):
            ready = one.make(**one.settings)
            assert ready.measure() > 0
            same |= {one.name} if "apart" in ready.facts else set()
    assert {"torch Pillow", "torch torchvision", "busfast uncached", "busfast cached"} <= same
    assert not {"fastai DataBlock", "fastai RandomResizedCrop", "timm"} & same


def test_bench_epoch_compares_training(small_images, in_one_process):
    bench("epoch", images="4", threads="0", arch=ARCH, **TINY)
    table = pd.read_csv("results/bench/epoch.csv")
    assert table["name"].tolist() == ["stock fastai Learner", "busfast uncached", "busfast cached", "ceiling"]
    assert (table["img_per_s"] > 0).all()


def test_bench_step_switches_each_part_off(small_images, in_one_process):
    bench("step", arch=ARCH, only="stock,busfast,ceiling + bfloat16", **TINY)
    table = pd.read_csv("results/bench/step.csv")
    assert {"stock fastai Learner", "busfast", "busfast without channels_last", "busfast without fused_optimizer",
            "ceiling + bfloat16 autocast"} <= set(table["name"]) and (table["img_per_s"] > 0).all()


def test_bench_fastai_compares_plain_and_accelerated_code(small_images, in_one_process, monkeypatch):
    monkeypatch.setattr(fastai, "ARCHS", (ARCH,))
    bench("fastai", images="5", threads="0", **TINY)
    table = pd.read_csv("results/bench/fastai.csv")
    ways = ("presize", "resize", f"epoch of {ARCH}")
    assert table["name"].tolist() == [f"{who}: {way}" for who in ("fastai", "busfast") for way in ways]
    assert (table["img_per_s"] > 0).all() and (table["apart"] < 0.5).all()
    pictures = [np.asarray(images.draw_photograph(number)) for number in (0, 1)]
    assert pictures[0].shape == (45, 60, 3) and pictures[0].std() > 20 and (pictures[0] != pictures[1]).any()


def test_bench_predict_gives_the_same_probabilities(small_images, in_one_process):
    bench("predict", images="5", threads="0", arch=ARCH, **TINY)
    table = pd.read_csv("results/bench/predict.csv")
    assert table["name"].tolist() == ["timm eager", "busfast predict"] and (table["apart"] < 1e-3).all()
    assert table["ratio"][1] == pytest.approx(table["img_per_s"][1] / table["img_per_s"][0], rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: make test-gpu")
@pytest.mark.parametrize(("what", "only"), [
    ("loaders", "busfast cached"), ("step", "busfast,ceiling + bfloat16"),
    ("epoch", "busfast,ceiling"), ("predict", "busfast")])
def test_a_bench_runs_on_a_gpu_as_far_as_one_can_be_pretended(small_images, in_one_process, monkeypatch, what, only):
    monkeypatch.setattr(resident, "SHARE", resident.SHARE)  # a contender sets it
    monkeypatch.setattr(step, "_steps", lambda device: 2)
    flags = {} if what == "step" else {"images": "4", "threads": "1"}
    flags |= {} if what == "loaders" else {"arch": ARCH}
    with pretended_gpu() as seen:
        bench(what, only=only, **TINY | flags | {"device": "cuda"})
    assert not seen.doubles
    table = pd.read_csv(f"results/bench/{what}.csv")
    assert (table["img_per_s"] > 0).all() and not any(name.startswith("stock") for name in table["name"])
    assert "on the pretended GPU." in Path(f"results/bench/{what}.md").read_text()


@pytest.mark.parametrize(("what", "flags", "message"), [
    ("loader", {}, "Unknown bench 'loader'. Did you mean 'loaders'?"),
    ("loaders", {"rounds": "0"}, "rounds=0 is out of range"),
    ("loaders", {"rounds": "many"}, "rounds=many is not a whole number"),
    ("loaders", {"images": "8"}, "images=8 is too few for batches of 32"),
    ("loaders", {"data": "nowhere"}, "There is no data folder 'nowhere'"),
    ("loaders", {"arch": "resnet18"}, "bench loaders has no flag --arch"),
    ("loaders", {"only": "pytorch", "images": "2", "bs": "2"}, "No contender matches --only=pytorch"),
    ("step", {"arch": "efficientnet_b00"}, "Unknown model 'efficientnet_b00'"),
    *((study, {}, f"bench {study} is now a script: run python benchmarks/{study}.py") for study in STUDIES),
])
def test_wrong_input_is_refused_before_time_is_spent(tmp_path, small_images, what, flags, message):
    with pytest.raises(UserError) as error:
        bench(what, **flags)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.csv"))


def test_bench_takes_one_loose_word_and_refuses_two():
    verbs = {"bench": bench}
    parse.check(verbs, ["bench", "loaders", "--rounds=1"])
    parse.check(verbs, ["bench", "--what=loaders"])
    for words, message in ((["bench", "loaders", "step"], "Unexpected argument 'step'"),
                           (["bench", "--what=loaders", "step"], "Unexpected argument 'step'"),
                           (["bench"], "bench needs the name of a benchmark")):
        with pytest.raises(UserError, match=message):
            parse.check(verbs, words)
    call = parse.parse(verbs, ["bench", "loaders", "--rounds=1"])
    assert call.args == ("loaders",) and call.kwargs == {"rounds": "1"}


def test_the_help_of_bench_names_every_measurement(capsys):
    parse.show_help({"bench": bench}, ["bench"])
    page = capsys.readouterr().out
    assert all(what in page for what in WHATS) and "1000x1400" in page
