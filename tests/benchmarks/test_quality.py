import pytest
import quality

from busfast.bench import report


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
