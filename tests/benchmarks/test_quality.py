import pandas as pd
import pytest
import quality
import stock_fastai
from conftest import ARCH

from busfast.bench import report


def test_quality_takes_the_best_epoch_of_each_run_and_sums_its_seconds(tmp_path, monkeypatch):
    def write_run(command, cwd, **_):
        folder = cwd if "stock" in command[1] else cwd / "results" / "x" / "stratified"
        folder.mkdir(parents=True, exist_ok=True)
        fast, seed = "--preset=fast" in command, next(word for word in command if "seed" in word)[-1]
        (folder / "training_log.csv").write_text(f"epoch,macro_auc,seconds\n1,0.{seed}5,{2 if fast else 7}\n2,.99,1\n")
        (folder / "summary.yaml").write_text("best_epoch: 1\n")
        return quality.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(quality.subprocess, "run", write_run)
    found = quality.run(tmp_path, "somewhere", [1, 3])
    rows = found.rows.set_index("name")
    assert rows.loc["busfast --preset=fast", ["macro_auc", "seconds", "seeds"]].tolist() == pytest.approx([0.25, 3, 2])
    assert rows.loc["busfast, 5 epochs", "seconds"] == rows.loc["stock fastai, 5 epochs", "seconds"] == 8
    assert (rows["total"] > 0).all()
    assert report.judge(found)["verdict"].tolist()[1:] == ["reached"] * 3
    few = quality.run(tmp_path / "few", "somewhere", [1], ["stock"])
    assert few.rows["name"].tolist() == ["stock fastai, 5 epochs"]


def test_the_recipe_in_stock_fastai_is_trained_and_scored(tmp_path, phantom_folder):
    stock_fastai.train(phantom_folder, 3, tmp_path, arch=ARCH, epochs=1, size=32)
    log = pd.read_csv(tmp_path / "training_log.csv")
    assert log["epoch"].tolist() == [1] and 0 <= log["macro_auc"][0] <= 1 and log["seconds"][0] > 0
