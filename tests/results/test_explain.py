"""Probes and maps say what is known of a model that was made to look at one thing alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from busfast.cli import main
from busfast.data.images import load_pixels
from busfast.data.split import Split
from busfast.pipelines.image import ImagePipeline
from busfast.results.explain import check_sanity, choose_cases, localize
from busfast.results.probes import box, compare_parts, cover, frame, probe_run

CLASSES = ("benign", "malignant")
SIDE = 64
MIDDLE = np.s_[24:40, 24:40]
CORNER = np.s_[:7, :7]


class Looks(nn.Module):
    """Calls malignant what is bright in one region."""

    def __init__(self, region):
        super().__init__()
        self.region = region

    def forward_features(self, x):
        return x[(..., *self.region)].amax((1, 2, 3))[:, None]

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else torch.cat([-x, x], 1)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def marked(tmp_path):
    """Malignant images have a mark burned into a corner; their lesions are as all others."""
    return draw(tmp_path, mark=True)


@pytest.fixture
def clean(tmp_path):
    """Malignant images have a brighter lesion, and no mark."""
    return draw(tmp_path, mark=False)


def draw(tmp_path, mark):
    """Images of two centers, north's brighter, with a lesion in the middle."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "masks").mkdir()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[MIDDLE] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "lesion.png")
    for number in range(80):
        malignant = number % 2
        north = number % 4 < 2
        pixels = rng.integers(10, 60, (SIDE, SIDE)) + 40 * north
        pixels[MIDDLE] = rng.integers(100, 120, (16, 16)) + 60 * (malignant and not mark)
        pixels[CORNER] = 240 if malignant and mark else 20
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": CLASSES[malignant], "center": "north" if north else "south",
                     "group": f"g{number}", "mask": "masks/lesion.png", "part": "valid"})
    return Split(pd.DataFrame(rows), tmp_path)


def learner(model):
    """What the probes ask of a Learner."""
    valid = SimpleNamespace(image=ImagePipeline(size=SIDE), bs=16)
    return SimpleNamespace(model=model, dls=SimpleNamespace(valid=valid, device=torch.device("cpu")))


def probed(table, region):
    return probe_run(learner(Looks(region)), table, CLASSES).set_index("probe")["estimate"]


def test_a_planted_mark_is_caught(marked):
    found = probed(marked, CORNER)
    assert found["as it is"] == found["lesion covered"] == found["border alone"] == 1
    assert found["border covered"] == pytest.approx(0.5, abs=0.15)
    assert found["lesion alone"] == pytest.approx(0.5, abs=0.15)


def test_a_model_that_reads_the_lesion_loses_it_when_it_is_covered(clean):
    found = probed(clean, MIDDLE)
    assert found["as it is"] == found["lesion alone"] == found["border covered"] == 1
    assert found["lesion covered"] < 0.8 and found["border alone"] == pytest.approx(0.5, abs=0.15)


def test_features_that_know_the_center_are_told(marked):
    everywhere = np.s_[8:20, 8:56]  # background, brighter in the north
    found = probe_run(learner(Looks(everywhere)), marked, CLASSES).set_index("probe").loc["center from features"]
    assert found["estimate"] == 1 and found["chance"] == 0.5 and found["images"] == 80
    lone = replace(marked, rows=marked.rows.assign(center="north"))
    found = probe_run(learner(Looks(everywhere)), lone, CLASSES).set_index("probe").loc["center from features"]
    assert np.isnan(found["estimate"]) and "Not possible" in found["reading"]


def test_without_masks_only_the_border_is_probed(marked):
    bare = replace(marked, rows=marked.rows.assign(mask=""))
    found = probe_run(learner(Looks(CORNER)), bare, CLASSES).set_index("probe")
    assert "names no lesion masks" in found.loc["lesion covered", "reading"]
    assert np.isnan(found.loc["lesion alone", "estimate"])
    assert found.loc["border alone", "estimate"] == 1


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_parts_that_go_through_other_pixels_are_noticed(phantom_folder, parts, loader, monkeypatch):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    learn = learner(Looks(CORNER))
    row = compare_parts(learn, parts, loader)
    assert row["estimate"] < 1 and row["images"] == sum(parts.rows["part"].value_counts().clip(upper=16))
    learn.dls.valid.image = ImagePipeline(size=SIDE)
    from busfast.results import probes
    monkeypatch.setattr(probes, "load_pixels", lambda path, *fit: 255 - load_pixels(path, *fit))
    assert compare_parts(learn, parts, loader)["estimate"] > 20


def test_covers_hide_what_they_should_and_nothing_else():
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[MIDDLE] = True
    region = box(mask)
    assert region[20:44, 20:44].all() and region.sum() == 24 * 24  # 6% of 64 pixels more on each side
    hidden = cover(pixels, region)
    assert len(np.unique(hidden[region])) == 1 and np.array_equal(hidden[~region], pixels[~region])
    assert frame(SIDE).sum() == SIDE**2 - (SIDE - 2 * 8)**2


def test_maps_are_held_against_masks_as_counted_by_hand():
    maps, mask = np.zeros((2, 10, 10)), np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    maps[0, 2, 2], maps[0, 3, 3] = 1.0, 0.5  # all inside
    maps[1, 2, 2], maps[1, 9, 9] = 0.5, 1.0  # a third inside, its peak outside
    found = localize(maps, [mask, mask], np.array(["a", "b"]))["estimate"]
    assert found["pointing"] == 0.5 and found["energy"] == pytest.approx((1 + 1 / 3) / 2) and found["area"] == 0.04
    assert localize(maps, [None, np.zeros((10, 10), bool)], np.array(["a", "b"])).empty


def test_maps_of_the_model_itself_are_not_taken_for_those_of_an_untrained_one():
    pixels = list(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 1)).astype(np.uint8))
    targets = np.zeros(4, int)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = timm.create_model("resnet18", num_classes=3)  # what check_sanity makes, too
    learn = learner(own)
    learn.dls.vocab = ("a", "b", "c")
    from busfast.inference.gradcam import explain_images
    maps = explain_images(learn, "resnet18", pixels, targets)
    assert check_sanity(learn, "resnet18", pixels, targets, maps) > 0.99  # an untrained model is found out
    assert learn.model is own
    assert abs(check_sanity(learn, "resnet18", pixels, targets, maps[:, ::-1, ::-1])) < 0.9


def test_cases_are_the_surest_of_each_kind():
    table = pd.DataFrame({"label": ["benign"] * 6, "predicted": ["benign"] * 5 + ["malignant"],
                          "group": ["a", "a", "b", "c", "d", "e"], "center": ["x", "x", "x", "y", "x", "x"],
                          "p_benign": [0.9, 0.99, 0.8, 0.7, 0.6, 0.1]})
    table["p_malignant"] = 1 - table["p_benign"]
    cases = choose_cases(table, CLASSES)
    assert cases["group"].tolist() == ["a", "c", "b", "e"]  # first the surest of each center
    assert cases["p_benign"].tolist() == [0.99, 0.7, 0.8, 0.1]


def test_explain_writes_its_files_and_the_report_shows_them(workdir, capsys):
    assert main(["train", "--epochs=1", "--then=evaluate,explain,report"]) == 0
    folder = workdir / "results" / "phantom" / "stratified"
    assert {"explain.png", "localisation.csv", "probes.csv"} <= {path.name for path in folder.iterdir()}
    assert Image.open(folder / "explain.png").size[0] > 800
    page = (folder / "report.html").read_text()
    assert "lesion covered" in page and "pointing" in page and page.count("<img ") == 10
    assert "shortcut probes" in capsys.readouterr().out
    image = pd.read_csv(folder / "split.csv")["image"][0]
    data = [line.split(": ")[1] for line in (folder / "config.yaml").read_text().splitlines() if "data:" in line][0]
    assert main(["explain", "--run=phantom/stratified", f"--images={data}/{image}"]) == 0
    assert len(list((folder / "explain").glob("0001-*.png"))) == 1
    assert main(["explain", "--run=phantom/stratified", "--images=nowhere"]) == 2
    assert "no file or folder 'nowhere'" in capsys.readouterr().err
