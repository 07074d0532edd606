"""A bench measures what it says, leaves nobody out silently, and computes its verdicts."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH
from PIL import Image

from bench.bench_contenders import broken, dies, fails_later, holds, notes_its_turn, steady
from busfast.bench import (
    WHATS,
    arena,
    bench,
    epoch,
    job,
    loaders,
    own_images,
    predict,
    quality,
    report,
    size,
    step,
    stores,
)
from busfast.bench.arena import Contender, compete
from busfast.cli import parse
from busfast.errors import UserError

TINY = {"size": "32", "bs": "2", "rounds": "1"}


@pytest.fixture
def small_images(monkeypatch, tmp_path):
    """Images that are made in no time, and a folder of the test's own to work in."""
    monkeypatch.setattr(own_images, "WIDTH", 48)
    monkeypatch.setattr(own_images, "HEIGHT", 64)
    monkeypatch.setattr(job, "LEAST", 0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_one_process(monkeypatch):
    """Contenders measure once, here: starting processes that import fastai is what takes the time."""
    def compete(contenders, rounds, at_once=2):
        return [arena.Outcome(one.name, [ready.turn()], ready.facts, 1_000_000, 1_000_000)
                for one in contenders for ready in [one.make(**one.settings)]]

    for module in (epoch, loaders, predict, size, step):
        monkeypatch.setattr(module, "compete", compete)


def test_each_contender_has_a_process_of_its_own_and_the_first_round_is_not_counted():
    found = compete([Contender("a", steady, {"values": [9.0, 1.0, 2.0]}),
                     Contender("b", steady, {"values": [8.0, 3.0, 4.0]})], rounds=2)
    assert [one.values for one in found] == [[1.0, 2.0], [3.0, 4.0]]
    assert len({one.facts["process"] for one in found} | {os.getpid()}) == 3


def test_contenders_take_turns_and_each_round_begins_with_another(tmp_path):
    file = str(tmp_path / "log")
    compete([Contender(name, notes_its_turn, {"name": name, "file": file}) for name in "abc"], rounds=2)
    assert Path(file).read_text() == "abc" "bca" "cab"


def test_who_fails_or_is_absent_is_reported_with_the_reason_and_the_others_go_on(capsys):
    found = compete([Contender("broken", broken, {}), Contender("dies", dies, {}), Contender("later", fails_later, {}),
                     Contender("absent", steady, {"values": [1.0]}, {"no.such.library": "no-such-library"}),
                     Contender("fine", steady, {"values": [1.0, 2.0]})], rounds=1)
    reasons = report.reasons(found)
    assert reasons == {"broken": "ValueError: no such thing here", "dies": "its process ended (3)",
                       "later": "ZeroDivisionError: division by zero",
                       "absent": "not installed: pip install no-such-library"}
    assert found[-1].values == [2.0] and all(not one.values for one in found[:-1])
    out = capsys.readouterr().out
    assert all(f"{name}: left out: {reason}" in out for name, reason in reasons.items())
    assert list(report.tabulate(found, "fine")["name"]) == ["fine"]


def test_an_error_of_the_bench_itself_leaves_no_process_behind(monkeypatch):
    processes = []

    def stop(things, what):
        if what == "measuring":
            raise KeyboardInterrupt
        yield from things

    monkeypatch.setattr(arena, "progress", stop)
    end = arena._Corner.end
    monkeypatch.setattr(arena._Corner, "end", lambda self: (processes.append(self.process.pid), end(self)))
    with pytest.raises(KeyboardInterrupt):
        compete([Contender("a", steady, {"values": [1.0]})], rounds=1)
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_memory_is_that_of_the_contender():
    small, large = compete([Contender("small", holds, {"megabytes": 1}), Contender("large", holds, {"megabytes": 200})],
                           rounds=1)
    assert 150e6 < large.own - small.own < 250e6
    assert 150e6 < large.peak - small.peak < 250e6


def outcome(name, values, **more):
    return arena.Outcome(name, values, **more)


def test_rows_are_medians_spreads_and_ratios():
    table = report.tabulate([outcome("a", [1.0, 2.0, 3.0], facts={"apart": 0.5}, peak=2_000_000),
                             outcome("b", [8.0, 10.0, 30.0], peak=1_000_000)], "a", ["apart"])
    assert list(table) == ["name", "img_per_s", "img_per_s_iqr", "ratio", "apart", "memory_mb"]
    assert table["img_per_s"].tolist() == [2, 10] and table["img_per_s_iqr"].tolist() == [1, 11]
    assert table["ratio"].tolist() == [1, 5] and table["memory_mb"].tolist() == [2, 1]
    assert table["apart"][0] == 0.5 and pd.isna(table["apart"][1])


def test_verdicts_follow_from_the_rows():
    rows = report.tabulate([outcome("a", [2.0], peak=10_000_000), outcome("b", [10.0], peak=13_000_000)], "a")
    targets = [report.Target("b", "a", 5), report.Target("b", "a", 5.1), report.Target("b", "c", 1),
               report.Target("b", "a", 1.2, True, "memory_mb"), report.Target("b", "a", 1.3, True, "memory_mb")]
    verdicts = report.judge(report.Report("", rows, ("img_per_s", ""), targets))
    assert verdicts["verdict"].tolist() == ["reached", "NOT reached", "not measured: c", "NOT reached", "reached"]
    assert verdicts["ratio"].tolist()[:2] == [5, 5] and verdicts["ratio"].tolist()[3] == pytest.approx(1.3)


def test_a_contender_that_delivers_something_else_is_refused(tmp_path):
    images = own_images.Images("", ("x",) * 4, ("x",) * 4, ("a", "b") * 2, "")
    asked = job.Job(images, 32, 2, 0, str(tmp_path))
    good = torch.rand(2, 3, 32, 32) * 2 - 1
    job.check_batch(asked, good)
    for wrong in (good[:1], good[:, :1], good.double(), good * 100, torch.zeros_like(good), good * float("nan")):
        with pytest.raises(UserError, match="deliver|its pixels lie"):
            job.check_batch(asked, wrong)


def test_own_images_are_gray_seeded_and_have_a_table(tmp_path, small_images):
    first = own_images.gather(None, 5, tmp_path / "a")
    again = own_images.gather(None, 5, tmp_path / "b")
    assert [Path(path).read_bytes() for path in first.paths] == [Path(path).read_bytes() for path in again.paths]
    assert len({Path(path).read_bytes() for path in first.paths}) == 5
    assert {Image.open(path).mode for path in first.paths} == {"L"}
    assert first.parts()["part"].value_counts().to_dict() == {"train": 5, "valid": 5}


def test_the_bone_is_brighter_than_the_flesh_and_the_flesh_than_the_air():
    pixels = np.asarray(own_images.draw_radiograph(0)).astype(float)
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
    assert "wrote results/bench/loaders.csv" in capsys.readouterr().out


def test_every_loader_that_is_installed_delivers_what_it_should(tmp_path, small_images):
    images = own_images.gather(None, 5, tmp_path / "images")
    listed = loaders.contenders(job.Job(images, 32, 2, 0, str(tmp_path)))
    assert {"fastai DataBlock", "fastai RandomResizedCrop", "torch Pillow", "torch torchvision", "timm", "raw DALI",
            "busfast uncached", "busfast cached"} <= {one.name for one in listed}
    same = set()
    for one in listed:
        if not any(map(arena._is_absent, one.needs)):
            ready = one.make(**one.settings)
            assert ready.turn() > 0
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


def test_bench_predict_gives_the_same_probabilities(small_images, in_one_process):
    bench("predict", images="5", threads="0", arch=ARCH, **TINY)
    table = pd.read_csv("results/bench/predict.csv")
    assert table["name"].tolist() == ["timm eager", "busfast predict"] and (table["apart"] < 1e-3).all()
    assert table["ratio"][1] == pytest.approx(table["img_per_s"][1] / table["img_per_s"][0], rel=1e-3)


def test_bench_size_measures_a_hundredth_a_tenth_and_all(small_images, in_one_process):
    bench("size", images="400", threads="1", arch=ARCH, **TINY)
    table = pd.read_csv("results/bench/size.csv")
    assert table["images"].tolist() == [4, 40, 400] * 2 and table["own_mb"].tolist() == [1] * 6
    assert table["ratio"].tolist()[::3] == [1, 1]


def test_every_store_gives_its_pixels_back(tmp_path):
    for name in stores.STORES:
        needs = stores.STORES[name][1]
        if any(arena._is_absent(module) for module in needs):
            continue
        ready = stores.store(name, str(tmp_path / name), 8, 32, 4)
        assert ready.facts["mb"] * 1e6 >= 8 * 32 * 32, name


def test_quality_takes_the_best_epoch_of_each_run_and_sums_its_seconds(tmp_path, monkeypatch):
    def write_run(command, cwd, **_):
        folder = cwd / "results" / "x" / "stratified"
        folder.mkdir(parents=True)
        fast, seed = "--preset=fast" in command, next(word for word in command if "seed" in word)[-1]
        (folder / "training_log.csv").write_text(f"epoch,macro_auc,seconds\n1,0.{seed}5,{2 if fast else 7}\n2,.99,1\n")
        (folder / "summary.yaml").write_text("best_epoch: 1\n")
        return quality.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(quality.subprocess, "run", write_run)
    found = quality.run(tmp_path, "somewhere", [1, 3])
    rows = found.rows.set_index("name")
    assert rows.loc["busfast --preset=fast", ["macro_auc", "seconds", "seeds"]].tolist() == pytest.approx([0.25, 3, 2])
    assert rows.loc["default, 5 epochs", "seconds"] == 8
    assert report.judge(found)["verdict"].tolist() == ["reached", "reached"]


@pytest.mark.parametrize(("what", "flags", "message"), [
    ("loader", {}, "Unknown bench 'loader'. Did you mean 'loaders'?"),
    ("loaders", {"rounds": "0"}, "rounds=0 is out of range"),
    ("loaders", {"rounds": "many"}, "rounds=many is not a whole number"),
    ("loaders", {"images": "8"}, "images=8 is too few for batches of 32"),
    ("loaders", {"data": "nowhere"}, "There is no data folder 'nowhere'"),
    ("loaders", {"seeds": "1"}, "--seeds=1 has no meaning for bench loaders"),
    ("loaders", {"only": "pytorch", "images": "2", "bs": "2"}, "--only=pytorch is part of no name"),
    ("step", {"arch": "efficientnet_b00"}, "Unknown model 'efficientnet_b00'"),
    ("quality", {}, "bench quality needs images"),
    ("options", {}, "bench options needs images"),
    ("options", {"data": "nowhere"}, "There is no data folder 'nowhere'"),
    ("quality", {"data": "nowhere"}, "There is no data folder 'nowhere'"),
])
def test_wrong_input_is_refused_before_time_is_spent(tmp_path, small_images, what, flags, message):
    with pytest.raises(UserError) as error:
        bench(what, **flags)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.csv"))


def test_size_refuses_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(UserError, match="bench size needs .* GB"):
        size.check_room(tmp_path, [10, 100, 10**9], 128)


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
