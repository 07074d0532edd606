"""Probes find what a model looks at, of models that were made to look at one thing only."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from busfast.data.images import load_pixels
from busfast.data.split import Split
from busfast.pipelines.image import ImagePipeline
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
    return probe_run(learner(Looks(region)), table, CLASSES).set_index("probe")


def test_a_planted_mark_is_caught_and_the_verdict_says_so(marked):
    found = probed(marked, CORNER)
    assert (found.loc[["as it is", "lesion covered", "border alone"], "estimate"] == 1).all()
    assert found.loc[["border covered", "lesion alone"], "estimate"].tolist() == pytest.approx([0.5, 0.5], abs=0.15)
    verdict = found["verdict"]
    assert verdict["as it is"] == "Better than chance."
    assert re.fullmatch(r"Covering the border costs 0\.\d+ \(0\.\d+ to 0\.\d+\): the model uses the border, or "
                        r"the cover disturbs it\.", verdict["border covered"])
    assert "gains 0.500" in verdict["border alone"] and "the border tells the class" in verdict["border alone"]
    assert verdict["lesion covered"].startswith("Covering the lesion: no difference shown")
    assert found.at["border covered", "change_high"] < -0.02 < 0 < found.at["lesion covered", "change_high"]


def test_a_model_that_reads_the_lesion_loses_it_when_it_is_covered_and_no_mark_is_claimed(clean):
    found = probed(clean, MIDDLE)
    assert (found.loc[["as it is", "lesion alone", "border covered"], "estimate"] == 1).all()
    assert found.at["lesion covered", "estimate"] < 0.8
    assert "the model uses the lesion" in found.at["lesion covered", "verdict"]
    for probe in ("lesion alone", "border covered", "border alone"):
        assert "no difference shown" in found.at[probe, "verdict"], probe


def test_a_model_that_is_no_better_than_chance_and_few_patients_get_no_verdict(marked):
    found = probed(marked, MIDDLE)["verdict"]  # all lesions are alike
    assert "probes cannot tell" in found["as it is"] and "no difference shown" in found["border covered"]
    few = replace(marked, rows=marked.rows.assign(group=[f"g{number % 2}" for number in range(80)]))
    found = probed(few, CORNER)["verdict"]
    assert (found[["as it is", "lesion covered", "border covered", "border alone"]]
            == "Too few patients: no verdict.").all()
    lone = replace(marked, rows=marked.rows.assign(label="benign"))
    assert "lacks a class" in probed(lone, CORNER).at["as it is", "verdict"]


def test_features_that_know_the_center_are_told(marked):
    everywhere = np.s_[8:20, 8:56]  # background, brighter in the north
    found = probe_run(learner(Looks(everywhere)), marked, CLASSES).set_index("probe").loc["center from features"]
    assert found["estimate"] == 1 and found["chance"] == 0.5 and found["images"] == 80
    assert "gains 0.500" in found["verdict"] and "the features hold the center" in found["verdict"]
    lone = replace(marked, rows=marked.rows.assign(center="north"))
    found = probe_run(learner(Looks(everywhere)), lone, CLASSES).set_index("probe").loc["center from features"]
    assert np.isnan(found["estimate"]) and "Not possible" in found["verdict"]


def test_without_masks_only_the_border_is_probed(marked):
    bare = replace(marked, rows=marked.rows.assign(mask=""))
    found = probe_run(learner(Looks(CORNER)), bare, CLASSES).set_index("probe")
    assert "there are no lesion masks" in found.loc["lesion covered", "verdict"]
    assert np.isnan(found.loc["lesion alone", "estimate"])
    assert found.loc["border alone", "estimate"] == 1


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_parts_that_go_through_other_pixels_are_noticed(phantom_folder, parts, loader, monkeypatch):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    learn = learner(Looks(CORNER))
    row = compare_parts(learn, parts, loader)
    assert row["estimate"] < 1 and "within 2 of 255" in row["verdict"]
    assert row["images"] == sum(parts.rows["part"].value_counts().clip(upper=16))
    learn.dls.valid.image = ImagePipeline(size=SIDE)
    from busfast.results import probes
    monkeypatch.setattr(probes, "load_pixels", lambda path, *fit: 255 - load_pixels(path, *fit))
    row = compare_parts(learn, parts, loader)
    assert row["estimate"] > 20 and "not Pillow's" in row["verdict"]


def test_covers_hide_what_they_should_and_nothing_else():
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[MIDDLE] = True
    region = box(mask)
    assert region[20:44, 20:44].all() and region.sum() == 24 * 24  # 6% of 64 pixels more on each side
    hidden = cover(pixels, region)
    assert len(np.unique(hidden[region])) == 1 and np.array_equal(hidden[~region], pixels[~region])
    assert frame((SIDE, SIDE)).sum() == SIDE**2 - (SIDE - 2 * 8)**2
