"""Several runs of one kind: seeds on one split, folds, jobs side by side, their spread, and their ensemble.

Covers busfast/results/run_groups.py and busfast/results/ensemble.py, which share the trained runs, and
busfast/pipelines/splits.py (seeds and folds).
"""

import csv
import io
import json
import re
import shutil
import statistics
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ARCH, SIZE, write_pipeline
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

import busfast
from busfast.cli import main
from busfast.data.phantom import write_phantom
from busfast.data.split_file import read_split
from busfast.results.run_groups import Group, _spread
from busfast.training import parallel_runs
from busfast.training.runs import Run, all_runs

ROOT = Path(busfast.__file__).parents[1]
SEEDS = ["phantom/stratified-seed42", "phantom/stratified-seed43"]
FOLDS = ["phantom/kfold-1of2", "phantom/kfold-2of2"]
OF_SEEDS, OF_FOLDS = Run("phantom/stratified-seeds-ensemble"), Run("phantom/kfold-2folds-ensemble")
CLASSES = ["normal", "benign", "malignant"]
P = [f"p_{name}" for name in CLASSES]
T = {2: 12.7062}  # 97.5% of Student's t with runs - 1 degrees of freedom, from a printed table


def run(line: str, code: int = 0) -> None:
    assert main(line.split()) == code


def read(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(name: str) -> dict:
    return torch.load(Run(name).models / "best.pth", weights_only=True)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def predictions(name: str) -> pd.DataFrame:
    return pd.read_csv(Run(name).results / "predictions.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds and two folds, evaluated, and the ensemble of each; made once, tests work on copies."""
    place = tmp_path_factory.mktemp("many")
    write_phantom(place / "data" / "phantom", images=120)
    write_pipeline(place, "data/phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        with redirect_stdout(io.StringIO()) as said:
            run("train --seeds=2 --then=evaluate")
        (place / "said.txt").write_text(said.getvalue())
        run("train --split=kfold --folds=2 --epochs=1 --then=evaluate")
        run("ensemble --runs=phantom/stratified-seeds")
        run(f"ensemble --runs={','.join(FOLDS)}")
        run(f"evaluate --run={OF_SEEDS.name}")
    return place


def test_after_seeds_were_evaluated_their_ensemble_is_next_by_the_name_of_the_group(place):
    assert Path("said.txt").read_text().endswith("\nNext: python -m busfast ensemble --runs=phantom/stratified-seeds\n")


def test_seeds_have_one_split_and_weights_of_their_own_and_each_is_run_again_from_its_config(place):
    first, second = (Run(name).results for name in SEEDS)
    assert (first / "split.csv").read_bytes() == (second / "split.csv").read_bytes()
    assert not same(*map(weights, SEEDS))
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert (config["seed"], config["split_seed"]) == (43, 42)
    words = (second / "config.yaml").read_text().splitlines()[0].partition("python -m busfast ")[2]
    run(words)
    assert (Run(f"{SEEDS[1]}-2").results / "split.csv").read_bytes() == (first / "split.csv").read_bytes()
    assert same(weights(SEEDS[1]), weights(f"{SEEDS[1]}-2"))
    run("train --seed=43")
    assert (Run("phantom/stratified").results / "split.csv").read_bytes() != (first / "split.csv").read_bytes()


def test_a_config_of_before_there_was_a_split_seed_goes_on(place, capsys):
    path = Run(FOLDS[0]).results / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("split_seed")))
    run("train --split=kfold --folds=2 --fold=1 --epochs=1 --resume")
    assert f"{FOLDS[0]} is finished; nothing is left to do" in capsys.readouterr().out


def test_resume_leaves_seeds_that_are_done_alone_and_adds_others(place):
    before = {path: path.stat().st_mtime_ns for name in SEEDS for path in Run(name).results.iterdir()}
    run("train --seeds=42,43,50 --resume")
    assert before == {path: path.stat().st_mtime_ns for name in SEEDS for path in Run(name).results.iterdir()}
    assert not Run(f"{SEEDS[0]}-2").results.exists()
    config = yaml.safe_load((Run("phantom/stratified-seed50").results / "config.yaml").read_text())
    assert (config["seed"], config["split_seed"]) == (50, 42)


def test_the_spread_of_a_group_is_that_of_its_runs_own_files(place, capsys):
    run("compare")
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines() if line.startswith(("  valid ", "  test ", "  pooled "))) <= 80
    rows = {(row["group"], row["part"], row["score"]): row for row in read("results/aggregate.csv")}
    for group, names in (("phantom/stratified-seeds", SEEDS), ("phantom/kfold-2folds", FOLDS)):
        valid, test = [], []
        for name in names:
            best = yaml.safe_load((Run(name).results / "summary.yaml").read_text())["best_epoch"]
            log = read(Run(name).results / "training_log.csv")
            valid.append(next(float(row["macro_auc"]) for row in log if row["epoch"] == str(best)))
            test.append(next(float(row["estimate"]) for row in read(Run(name).results / "metrics.csv")
                             if (row["part"], row["by"], row["score"]) == ("test", "all", "accuracy")))
        for part, score, values in (("valid", "macro_auc", valid), ("test", "accuracy", test)):
            row = rows[group, part, score]
            mean, sd = statistics.mean(values), statistics.stdev(values)
            half = T[len(values)] * sd / len(values) ** 0.5
            found = [float(row[key]) for key in ("mean", "sd", "low", "high", "lowest", "highest")]
            low, high = max(0, mean - half), min(1, mean + half)
            assert found == pytest.approx([mean, sd, low, high, min(values), max(values)], abs=2e-5)
            assert row["runs"] == "2" and row["interval"] == "t over runs"
        assert f"{group}: 2 {'seeds' if names == SEEDS else 'folds'}\n" in said
        assert group in open("results/compare.md").read()
    pooled = pd.concat(predictions(name).query("part == 'test'") for name in FOLDS)
    assert len(pooled) == pooled["image"].nunique() == 120
    expected = roc_auc_score(pooled["label"], pooled[sorted(P)], multi_class="ovr", labels=sorted(CLASSES))
    row = rows["phantom/kfold-2folds", "test, pooled", "macro_auc"]
    assert float(row["mean"]) == pytest.approx(expected, abs=1e-5) and row["interval"] == "by patient"
    assert ("phantom/stratified-seeds", "test, pooled", "macro_auc") not in rows


def test_the_interval_of_a_group_ends_where_its_score_does():
    values = pd.DataFrame({"auc_benign": [0.9, 1.0], "recall_benign": [0.0, 0.1], "mcc": [-0.9, 0.9],
                           "brier": [0.1, 1.9], "val_loss": [0.1, 2.0], "macro_auc": [np.nan, 0.5]})
    rows = pd.DataFrame(_spread(Group("a", "seeds", (), 2), "test", values)).set_index("score")
    found = {name: (row["low"], row["high"]) for name, row in rows.iterrows()}
    assert found["auc_benign"] == (pytest.approx(0.95 - 12.706 * 0.05, abs=1e-3), 1) and found["recall_benign"][0] == 0
    assert found["mcc"] == (-1, 1) and found["brier"] == (0, 2)
    assert found["val_loss"][0] == 0 and found["val_loss"][1] > 10 and np.isnan(found["macro_auc"]).all()


def copied(name: str, new: str, **config) -> Run:
    """A run that looks as if it had been trained with another configuration."""
    for room in ("results", "models"):
        shutil.copytree(f"{room}/{name}", f"{room}/{new}")
    path = Run(new).results / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | config))
    return Run(new)


def test_runs_of_another_recipe_and_runs_that_are_not_done_are_not_mixed_in(place, capsys):
    for name in SEEDS:
        copied(name, f"{name}-2", lr=5e-4)
    other = copied(SEEDS[0], "phantom/stratified-seed44", seed=44)
    summary = yaml.safe_load((other.results / "summary.yaml").read_text())
    (other.results / "summary.yaml").write_text(yaml.safe_dump(summary | {"state": "interrupted"}))
    (Run(FOLDS[0]).results / "predictions.csv").unlink()
    run("compare")
    said = capsys.readouterr().out
    assert "phantom/stratified-seeds: 2 seeds" in said
    assert "phantom/stratified-seeds-2: 2 seeds; differs from phantom/stratified-seeds in: lr (0.0005, not" in said
    rows = pd.read_csv("results/aggregate.csv")
    assert set(rows["part"][rows["group"] == "phantom/kfold-2folds"]) == {"valid"}  # not of the fold that was scored


def test_a_group_has_the_same_name_for_compare_of_its_runs_alone_and_for_ensemble(place, capsys):
    others = [copied(name, f"{name}-2", lr=5e-4).name for name in SEEDS]
    (copied(FOLDS[0], "phantom/damaged").results / "config.yaml").write_text("[")  # not asked for
    run(f"compare --runs={','.join(others)}")
    assert "phantom/stratified-seeds-2: 2 seeds; differs from phantom/stratified-seeds in: lr" in \
        capsys.readouterr().out
    shutil.rmtree("results/phantom/damaged")
    run("ensemble --runs=phantom/stratified-seeds-2")
    assert f"the mean of 2 runs: {', '.join(others)}\n" in capsys.readouterr().out
    run("ensemble --runs=phantom/stratified-seeds")
    assert f"{OF_SEEDS.name}: there already" in capsys.readouterr().out


def test_a_group_that_lacks_a_fold_says_so_and_is_not_pooled(place, capsys):
    for name, new in zip(FOLDS, ("phantom/kfold-1of3", "phantom/kfold-3of3"), strict=True):
        copied(name, new, folds=3)
    run("compare --runs=phantom/kfold-1of3,phantom/kfold-3of3")
    said = capsys.readouterr().out
    assert "phantom/kfold-3folds: 2 of 3 folds\n" in said and "pooled" not in said.lower()
    run("ensemble --runs=phantom/kfold-3fold", code=2)
    assert "group of runs 'phantom/kfold-3fold'. Did you mean 'phantom/kfold-3folds'?" in capsys.readouterr().err
    run("ensemble --runs=phantom/kfold-3folds", code=2)
    assert "phantom/kfold-3folds has 2 of 3 runs" in capsys.readouterr().err


def test_jobs_side_by_side_give_what_one_after_the_other_gives(place, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run("train --seeds=2 --jobs=2")
    said = capsys.readouterr().out
    assert "[stratified-seed43] epoch 2/2" in said and "phantom/stratified-seeds: 2 seeds" in said
    for name in SEEDS:
        assert same(weights(name), weights(f"{name}-2"))
        logs = [pd.read_csv(Run(one).results / "training_log.csv").drop(columns="seconds")
                for one in (name, f"{name}-2")]
        pd.testing.assert_frame_equal(*logs)


def test_an_ensemble_says_the_mean_of_what_its_members_say_and_is_scored_as_a_run(place):
    own, members = predictions(OF_SEEDS.name), [predictions(name) for name in SEEDS]
    mean = sum(of[P] for of in members) / 2
    assert np.abs(own[P].to_numpy() - mean.to_numpy()).max() < 1e-5
    assert np.abs(own[P].to_numpy() - members[0][P].to_numpy()).max() > 1e-3
    assert own["image"].equals(members[0]["image"]) and own["part"].equals(members[0]["part"])
    history = yaml.safe_load((OF_SEEDS.results / "evaluation.yaml").read_text())
    assert history["test_scored"] == 1 and history["evaluations"][0]["images"]["test"] == (own["part"] == "test").sum()
    trained = pd.read_csv(OF_SEEDS.results / "valid_predictions.csv")
    assert np.abs(trained[P].to_numpy() - own.query("part == 'valid'")[P].to_numpy()).max() < 1e-4
    summary = yaml.safe_load((OF_SEEDS.results / "summary.yaml").read_text())
    right = trained["label"].map(CLASSES.index).to_numpy()
    assert summary["valid"]["val_loss"] == pytest.approx(
        -np.log(trained[P].to_numpy()[range(len(right)), right]).mean(), abs=1e-5)


def test_an_ensemble_has_the_positive_class_that_its_members_were_given(place):
    for name in SEEDS:
        with open(Run(name).results / "evaluation.yaml", "a") as file:
            file.write("positive: benign\n")
    for folder in (OF_SEEDS.results, OF_SEEDS.models):
        shutil.rmtree(folder)
    run("ensemble --runs=phantom/stratified-seeds")
    assert OF_SEEDS.read_config()[0].positive == "benign"


def test_a_second_ensemble_of_the_same_runs_is_the_first_and_other_weights_make_another(place, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    run(f"ensemble --runs={','.join(SEEDS[::-1])}")
    said = capsys.readouterr().out
    assert f"{OF_SEEDS.name}: there already, of these runs\n" in said and f"evaluate --run={OF_SEEDS.name}\n" in said
    (OF_FOLDS.results / "out_of_fold.csv").unlink()  # as if the members had been scored only now
    run("ensemble --runs=phantom/kfold-2folds")
    assert f"{OF_FOLDS.name}: there already" in capsys.readouterr().out
    assert (OF_FOLDS.results / "out_of_fold.csv").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    copied(SEEDS[1], "phantom/other")
    run(f"ensemble --runs={SEEDS[0]},{SEEDS[1]},phantom/other")
    assert "warning: some of them have the same weights" in capsys.readouterr().out


BEST = "train --preset=best --epochs=2 --size=32 --seeds=2"


def test_the_preset_best_makes_one_run_of_seeds_and_mirrored_images_and_goes_on_with_it(workdir, capsys):
    run(f"{BEST} --then=evaluate")
    said = capsys.readouterr().out
    assert f"{OF_SEEDS.name}: the mean of 2 runs: {', '.join(SEEDS)}" in said
    assert [one.name for one in all_runs() if (one.results / "metrics.csv").is_file()] == [OF_SEEDS.name]
    config, record = OF_SEEDS.read_config()
    assert (config.tta, record["members"]) == ("flip", SEEDS)
    valid = [pd.read_csv(Run(name).results / "valid_predictions.csv").set_index("image")[P] for name in SEEDS]
    mean = predictions(OF_SEEDS.name).query("part == 'valid'").set_index("image")[P]
    np.testing.assert_allclose(mean, sum(valid).loc[mean.index] / 2, atol=1e-4)
    run(f"{BEST} --resume --then=evaluate")
    assert f"{OF_SEEDS.name}: there already" in capsys.readouterr().out
    assert not Run(f"{OF_SEEDS.name}-2").results.exists()
    run(f"{BEST} --lr=0.001 --resume")  # of which there is none yet
    said = capsys.readouterr().out
    assert f"resume: {SEEDS[0]} has another configuration and is finished; a new run starts" in said
    assert "seeds: 2 trainings of each split (42, 43), then their mean as one run" in said
    second = Run("phantom/stratified-seeds-2-ensemble")  # after its group
    assert second.read_config()[1]["members"] == [f"{name}-2" for name in SEEDS]
    run(f"{BEST} --resume --then=evaluate")  # passes over the newer ones
    assert f"{OF_SEEDS.name}: there already" in capsys.readouterr().out


def test_the_preset_best_of_folds_ends_with_the_spread_of_their_ensembles_and_lists_nothing_else(workdir, capsys):
    run("train --epochs=1 --seed=7")
    capsys.readouterr()
    run(f"{BEST} --split=kfold --folds=2 --then=evaluate")
    said = capsys.readouterr().out
    assert [f"training {number} of 4 ({which})" in said for number, which in enumerate(
        ("fold 1, seed 42", "fold 1, seed 43", "fold 2, seed 42", "fold 2, seed 43"), 1)] == [True] * 4
    assert said.count("device: cpu") == said.count("recipe: tta flip") == said.count("\nmodel: ") == 1
    ensembles = [f"phantom/kfold-{number}of2-seeds-ensemble" for number in (1, 2)]
    assert sorted(pd.read_csv("results/compare.csv")["run"]) == ensembles
    rows = pd.read_csv("results/aggregate.csv")
    assert set(rows["group"]) == {"phantom/kfold-2folds-ensembles"} and "stratified" not in said
    rows = rows[rows["score"] == "macro_auc"].set_index("part")
    for part in ("valid", "test"):
        scores = [yaml.safe_load((Run(name).results / "summary.yaml").read_text())["valid"]["macro_auc"]
                  if part == "valid" else _test_auc(name) for name in ensembles]
        assert rows.loc[part, ["mean", "sd"]].tolist() == pytest.approx(
            [statistics.mean(scores), statistics.stdev(scores)], abs=2e-6)
    pooled = pd.concat(predictions(name).query("part == 'test'") for name in ensembles)
    expected = roc_auc_score(pooled["label"], pooled[sorted(P)], multi_class="ovr", labels=sorted(CLASSES))
    assert pooled["image"].is_unique and rows.loc["test, pooled", "mean"] == pytest.approx(expected, abs=1e-5)
    run("compare")
    said = capsys.readouterr().out
    assert "phantom/kfold-2folds-ensembles: 2 folds\n" in said and "4 groups of their members: results/aggr" in said
    assert "phantom/kfold-2folds-seed42:" not in said and len(set(pd.read_csv("results/aggregate.csv")["group"])) == 5


def _test_auc(name: str) -> float:
    return next(float(row["estimate"]) for row in read(Run(name).results / "metrics.csv")
                if (row["part"], row["by"], row["score"]) == ("test", "all", "macro_auc"))


def test_members_of_the_preset_best_that_train_side_by_side_are_plain_runs(workdir, monkeypatch):
    monkeypatch.setattr(parallel_runs, "run_jobs", lambda commands, *_: [run(" ".join(line)) for line in
                                                                         commands.values()] and [])
    run(f"{BEST} --jobs=2 --then=evaluate")
    assert {one.name for one in all_runs()} == {*SEEDS, OF_SEEDS.name}
    assert not (Run(SEEDS[0]).results / "metrics.csv").exists() and (OF_SEEDS.results / "metrics.csv").is_file()


def test_every_verb_takes_an_ensemble(place, capsys):
    pytest.importorskip("onnxscript")
    for line in (f"explain --run={OF_SEEDS.name}", f"report --run={OF_SEEDS.name}",
                 f"export --run={OF_SEEDS.name} --format=bundle,onnx,learner", "compare",
                 f"predict data/phantom --run={OF_SEEDS.name} --out=run.csv",
                 f"predict data/phantom --model={OF_SEEDS.models}/bundle --out=bundle.csv",
                 f"predict data/phantom --model={OF_SEEDS.models}/bundle --engine=onnx --out=onnx.csv",
                 f"predict data/phantom --model={OF_SEEDS.models}/learner.pkl --trust --out=learner.csv"):
        run(line)
    said = capsys.readouterr().out
    pairs = re.findall(r"^  ([\w ]+) - ([\w ]+?) +(\d\.\de-\d\d)$", said, re.MULTILINE)
    assert len(pairs) == 6 and max(float(apart) for *_, apart in pairs) <= 1e-4
    found = {name: pd.read_csv(f"{name}.csv") for name in ("run", "bundle", "onnx", "learner")}
    for name in ("bundle", "onnx"):
        assert np.abs(found[name][P].to_numpy() - found["run"][P].to_numpy()).max() <= 1e-4
        assert (found[name]["outlier"] > 0).all()
    facts = json.loads((OF_SEEDS.models / "bundle" / "bundle.json").read_text())
    assert facts["version"] == "2.0" and facts["members"] == 2 and facts["run"]["members"] == SEEDS
    assert facts["metrics"]["images"] == (predictions(OF_SEEDS.name)["part"] == "test").sum()
    own = predictions(OF_SEEDS.name).set_index("image")[P]  # the temperature is that of the mean, not of a member
    bundle = found["bundle"].assign(image=found["bundle"]["image"]).set_index("image")[P].loc[own.index]
    assert np.abs(bundle.to_numpy() - softmax(np.log(own.to_numpy()) / facts["temperature"], axis=1)).max() <= 1e-4
    table = pd.read_csv("results/compare.csv").set_index("run")
    assert table.loc[OF_SEEDS.name, "model"] == f"{ARCH}, mean of 2" and table.loc[OF_SEEDS.name, "test_macro_auc"] > 0
    pairs = pd.read_csv("results/differences.csv")
    paired = pairs[pairs["b"].eq(OF_SEEDS.name) & pairs["a"].isin(SEEDS)]
    assert len(paired) == 6 and (paired["images"] == "same").all() and paired["recipe"].str.contains("members").all()
    page = (OF_SEEDS.results / "report.html").read_text()
    assert "the mean of the probabilities of 2 runs" in page and all(f">{name}<" in page for name in SEEDS)


def test_the_mean_of_folds_claims_no_score(place, capsys):
    """Each image trained one of its members."""
    run(f"evaluate --run={OF_FOLDS.name}", code=2)
    assert "cannot be scored: its members were trained on different splits" in (said := capsys.readouterr().err)
    assert said.strip().endswith("On another labelled set it can be scored: --data=SET.")
    assert not (OF_FOLDS.results / "predictions.csv").exists()
    split = read_split(OF_FOLDS.results / "split.csv", "data/phantom").rows
    seen = {image for name in FOLDS for image in
            read_split(Run(name).results / "split.csv", "").rows.query("part != 'test'")["image"]}
    assert set(split["image"][split["part"] == "train"]) == seen == set(split["image"])
    run(f"export --run={OF_FOLDS.name}")
    facts = json.loads((OF_FOLDS.models / "bundle" / "bundle.json").read_text())
    assert facts["metrics"] is facts["temperature"] is facts["outlier"] is None and facts["operating_points"] == []
    run("compare")
    pooled = pd.read_csv("results/aggregate.csv").query("group == 'phantom/kfold-2folds' and part == 'test, pooled'")
    out = pd.read_csv(OF_FOLDS.results / "out_of_fold.csv").set_index("score")["estimate"]
    assert out["macro_auc"] == pytest.approx(pooled.set_index("score").loc["macro_auc", "mean"], abs=1e-5)


@pytest.mark.parametrize("verb", ["evaluate", "report", "export"])
def test_a_group_in_the_place_of_a_run_is_said_to_be_one(place, verb, capsys):
    run(f"{verb} --run=phantom/kfold-2folds", code=2)
    said = capsys.readouterr().err
    assert f"'phantom/kfold-2folds' is a group of runs. Name each of them in turn ({', '.join(FOLDS)})" in said
    assert "python -m busfast ensemble --runs=phantom/kfold-2folds" in said


def unfit(**config):
    return lambda: copied(SEEDS[1], "phantom/other", **config)


def move_one_to_train():
    path = Run(SEEDS[0]).results / "split.csv"
    path.write_text(path.read_text().replace(",test,", ",train,", 1))


@pytest.mark.parametrize(("spoil", "runs", "message"), [
    (move_one_to_train, SEEDS, "is not the split that phantom/stratified-seed42 was trained with"),
    (unfit(size=48), [SEEDS[0], "phantom/other"], f"size is 48 there and {SIZE} here"),
    (unfit(arch="test_resnet"), [SEEDS[0], "phantom/other"], "architecture is test_resnet there"),
    (unfit(classes=["normal", "malignant", "benign"]), [SEEDS[0], "phantom/other"], "classes is normal, malignant"),
    (unfit(resize="crop"), [SEEDS[0], "phantom/other"], "resize is crop there"),
    (unfit(tta="flip"), [SEEDS[0], "phantom/other"], "tta is flip there and none here"),
    (lambda: (Run(SEEDS[1]).results / "summary.yaml").write_text("state: interrupted\n"), SEEDS, "is unfinished"),
    (lambda: (Run(SEEDS[1]).models / "best.pth").write_bytes(b"other"), SEEDS, "is not the file that"),
    (lambda: None, [SEEDS[0], OF_SEEDS.name], "is an ensemble. Name its members"),
    (lambda: None, [*SEEDS, f"results/{SEEDS[0]}"], f"names {SEEDS[0]} twice. Name each run once."),
    (lambda: None, SEEDS[:1], "(groups here: phantom/kfold-2folds, phantom/stratified-seeds)"),
])
def test_runs_that_cannot_be_averaged_honestly_are_refused_and_nothing_is_made(place, spoil, runs, message, capsys):
    spoil()
    before = sorted(place.rglob("*"))
    run(f"ensemble --runs={','.join(runs)}", code=2)
    assert message in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_runs_of_overlapping_splits_claim_no_test_part(place, capsys):
    """What is one's test part is the other's training part."""
    run("train --seed=7 --epochs=1")
    run(f"ensemble --runs={SEEDS[0]},phantom/stratified")
    assert "it cannot be scored here" in (said := capsys.readouterr().out)
    assert f"evaluate --run={SEEDS[0]}-ensemble --data=SET" in said
    made = Run(f"{SEEDS[0]}-ensemble")
    assert "test" not in set(read_split(made.results / "split.csv", "").rows["part"])
    assert not (made.results / "out_of_fold.csv").exists()
    run(f"evaluate --run={made.name}", code=2)
