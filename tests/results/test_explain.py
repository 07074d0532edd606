"""Maps are compared with masks and with an untrained model; the surest cases are shown."""

import shlex
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from busfast.cli import main
from busfast.inference import gradcam
from busfast.inference.gradcam import NoMaps
from busfast.pipelines.image import ImagePipeline
from busfast.results import explain
from busfast.results.evaluation import read_explanation
from busfast.results.explain import check_sanity, choose_cases, draw_gallery, localize
from busfast.training.runs import Run

CLASSES = ("benign", "malignant")
SIDE = 64


def learner(model):
    """What the probes ask of a Learner."""
    valid = SimpleNamespace(image=ImagePipeline(size=SIDE), bs=16)
    return SimpleNamespace(model=model, dls=SimpleNamespace(valid=valid, device=torch.device("cpu")))


def test_maps_are_held_against_masks_as_counted_by_hand():
    maps, mask = np.zeros((2, 10, 10)), np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    maps[0, 2, 2], maps[0, 3, 3] = 1.0, 0.5  # all inside
    maps[1, 2, 2], maps[1, 9, 9] = 0.5, 1.0  # a third inside, its peak outside
    found = localize(maps, [mask, mask], np.array(["a", "b"]))["estimate"]
    assert found["pointing"] == 0.5 and found["energy"] == pytest.approx((1 + 1 / 3) / 2) and found["area"] == 0.04
    assert found["pointing by chance"] == 0.5  # the first map's peak lies in the other image's lesion, too
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
    maps, note = explain_images(learn, "resnet18", pixels, targets)
    assert note == "Coarse maps: 2 x 2 cells show a region, not a lesion's edge."
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


def test_the_gallery_shows_each_case_in_its_class_and_below_it_the_same_image_with_its_map(monkeypatch):
    figures, rng = [], np.random.default_rng(0)
    monkeypatch.setattr(explain, "save_figure", lambda figure, path: figures.append(figure))
    table = pd.DataFrame({"label": ["malignant", "benign", "malignant"], "predicted": ["malignant"] * 3,
                          "group": list("abc"), "center": ["x", "y", "z"], "p_benign": [0.1, 0.3, 0.4]})
    cases = choose_cases(table.assign(p_malignant=1 - table["p_benign"]), CLASSES)
    pixels, maps = list(rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)), rng.random((3, 8, 8))
    maps[2] = 0  # nothing counted
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    draw_gallery(cases, pixels, maps, [None, mask, None], CLASSES, "a run", None)
    grid = np.array(figures[0].axes).reshape(4, 6)  # two rows of each class; right ones, then wrong ones
    assert cases["center"].tolist() == ["y", "x", "z"]  # benign, which is wrong, then malignant
    for number, place in enumerate([(0, 3), (2, 0), (2, 1)]):
        image, overlay = grid[place], grid[place[0] + 1, place[1]]
        label, center, share = cases.iloc[number][["label", "center", "sure"]]
        assert image.get_title().startswith(f"{label}, {center}\npredicted malignant ({share:.2f})")
        assert image.get_title().endswith("WRONG") == (label == "benign")
        assert all(np.array_equal(axes.images[0].get_array(), pixels[number].squeeze()) for axes in (image, overlay))
        assert len(image.images) == 1  # the original, with nothing over it
        heat = overlay.images[1].get_array()
        assert np.allclose(heat[..., 3], explain.COVER * maps[number]) and np.ptp(heat[..., :3], axis=(0, 1)).max() == 0
        assert len(overlay.collections) == (number == 1)  # the outline of the mask
        assert overlay.get_title() == ("no color: nothing here counted for it" if number == 2 else "")
    assert sum(bool(axes.images) for axes in grid.flat) == 6
    long = cases.assign(label="malignant", predicted="a carcinoma of several words and types")
    draw_gallery(long, pixels, maps, [None] * 3, ("malignant",), "a run", None)
    assert max(len(line) for axes in figures.pop().axes for line in axes.get_title().splitlines()) < 40  # 2 inches
    caption = figures[0].get_suptitle()
    assert "white line: lesion mask" in caption and "1 of 3 maps has no color" in caption
    draw_gallery(cases, pixels, np.ones((3, 8, 8)), [None, np.zeros((8, 8), bool), None], CLASSES, "a run", None)
    assert "mask" not in figures[1].get_suptitle() and "no color" not in figures[1].get_suptitle()


def test_a_picture_of_ones_own_image_shows_that_image_its_map_and_its_class(monkeypatch, tmp_path):
    figures, rng = {}, np.random.default_rng(0)
    pixels = {f"{name}.png": rng.integers(0, 256, (8, 8, 1)).astype(np.uint8) for name in ("b", "broken", "a")}
    maps = rng.random((2, 8, 8))
    config = SimpleNamespace(classes=CLASSES, arch="", label_delim="")
    run = SimpleNamespace(read_config=lambda: (config, {}), best_weights=lambda: None)
    monkeypatch.setattr(explain, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    monkeypatch.setattr(explain, "load_run_model", lambda *args, **flags: learner(None))
    monkeypatch.setattr(explain, "predict_logits", lambda learn, paths: (
        np.log([[0.9, 0.1], [0.5, 0.5], [0.25, 0.75]]), ["", "cut off", ""]))
    monkeypatch.setattr(explain, "load_pixels", lambda path, *fit: pixels[path.name])
    monkeypatch.setattr(explain, "explain_images", lambda learn, arch, given, targets: (
        maps[targets] if [*map(id, given)] == [id(pixels["b.png"]), id(pixels["a.png"])] else None, "a note"))
    explain.explain_inputs(run, list(pixels), [tmp_path / name for name in pixels], tmp_path / "out")
    assert list(figures) == ["0001-b.png", "0002-a.png"]
    expected = [("b.png", "benign (0.90)", maps[0]), ("a.png", "malignant (0.75)", maps[1])]
    for figure, (name, called, heatmap) in zip(figures.values(), expected, strict=True):
        image, overlay = figure.axes
        assert figure.get_suptitle().startswith(f"{name}: {called}; research only")
        assert all(np.array_equal(axes.images[0].get_array(), pixels[name].squeeze()) for axes in (image, overlay))
        assert len(image.images) == 1
        assert np.allclose(overlay.images[1].get_array()[..., 3], explain.COVER * heatmap)


def test_explain_writes_its_files_and_the_report_shows_them(workdir, capsys):
    line, verbs, said = "python -m busfast train --epochs=1", [], ""
    while not line.startswith("python -m busfast demo "):  # each verb ends with the next one, to be pasted
        words = shlex.split(line)[3:]
        if words[0] == "predict":
            assert words[1] == "NEW_IMAGES" and f"Next: {line}\n  NEW_IMAGES: in its place, " in said
            words[1] = Run("phantom/stratified").read_config()[0].data
        assert main(words) == 0
        said += (out := capsys.readouterr().out)
        verbs, line = [*verbs, words[0]], out.rpartition("\nNext: ")[2].split("\n")[0]
    assert verbs == ["train", "evaluate", "explain", "report", "export", "predict"] and "/bundle" in line
    written = list((workdir / "models/phantom/stratified/bundle").iterdir())
    assert written and all(f"wrote models/phantom/stratified/bundle/{path.name} (" in said for path in written)
    folder = workdir / "results" / "phantom" / "stratified"
    assert {"explain.png", "localisation.csv", "probes.csv"} <= {path.name for path in folder.iterdir()}
    assert Image.open(folder / "explain.png").size[0] > 800
    page = (folder / "report.html").read_text()
    assert "lesion covered" in page and "pointing" in page and page.count('src="data:image/png') == 11
    assert "shortcut probes" in said and said.count("Research only, not a medical device.") == len(verbs)
    probes = pd.read_csv(folder / "probes.csv")
    assert all(verdict in page.replace("&#39;", "'") for verdict in probes["verdict"])
    older = probes.drop(columns=["verdict", "change", "change_low", "change_high"])
    older.assign(reading="Near 0.5: no information.").to_csv(folder / "probes.csv", index=False)
    assert (read_explanation(Run("phantom/stratified"))[1]["verdict"].str.contains("Run explain again")).all()
    image = pd.read_csv(folder / "split.csv")["image"][0]
    data = [line.split(": ")[1] for line in (folder / "config.yaml").read_text().splitlines() if "data:" in line][0]
    assert main(["explain", "--run=phantom/stratified", f"--images={data}/{image}"]) == 0
    assert len(list((folder / "explain").glob("0001-*.png"))) == 1
    for name in ("a.png", "b.png"):
        (workdir / "mixed").mkdir(exist_ok=True)
        (workdir / "mixed" / name).write_bytes(b"no image")
    explain = ["explain", "--run=phantom/stratified", "--images=mixed", "--out=pictures"]
    assert main(explain) == 2
    assert "a.png cannot be read: " in (said := capsys.readouterr().err) and "None of the 2 can be." in said
    Image.open(f"{data}/{image}").save(workdir / "mixed" / "b.png")
    assert main(explain) == 0
    assert "a.png cannot be read: " in (said := capsys.readouterr().out) and "wrote 1 picture into pictures/" in said
    assert len(list((workdir / "pictures").iterdir())) == 1
    assert main(["explain", "--run=phantom/stratified", "--images=nowhere"]) == 2
    assert "no file or folder 'nowhere'" in capsys.readouterr().err


def test_a_model_without_maps_has_its_probes_and_a_report_that_says_why(workdir, capsys, monkeypatch):
    folder = workdir / "results" / "phantom" / "stratified"
    assert main(["train", "--epochs=1", "--then=explain"]) == 0
    assert (folder / "explain.png").is_file()

    def refuse(*_):
        raise NoMaps("Its tokens are shuffled.")

    monkeypatch.setattr(gradcam, "find_layer", refuse)
    capsys.readouterr()
    assert main(["train", "--resume", "--epochs=1", "--then=all"]) == 0
    assert "No maps: Its tokens are shuffled.\n" in (out := capsys.readouterr().out) and out.count("Next: ") == 1
    assert (workdir / "models" / "phantom" / "stratified" / "bundle" / "bundle.json").is_file()
    page = (folder / "report.html").read_text()
    assert "No maps: Its tokens are shuffled." in page and "lesion covered" in page
    assert not (folder / "explain.png").exists() and "Grad-CAM of the surest" not in page
    Image.new("L", (70, 60)).save("one.png")
    assert main(["explain", "--run=phantom/stratified", "--images=one.png"]) == 2
    assert "busfast: Its tokens are shuffled." in capsys.readouterr().err
