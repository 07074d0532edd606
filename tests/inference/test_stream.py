"""Predictions have a row for each input, and are the same wherever the model runs.

Covers busfast/inference/stream.py, busfast/inference/inputs.py, busfast/inference/predictor.py,
busfast/inference/run_model.py and busfast/inference/fastai_export.py.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_pipeline

from busfast.cli import main
from busfast.inference.engines import Outputs
from busfast.inference.inputs import list_inputs
from busfast.inference.stream import stream

RUN = "phantom/stratified"
CLASSES = ["p_normal", "p_benign", "p_malignant"]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, phantom_folder):
    folder = tmp_path_factory.mktemp("trained")
    write_pipeline(folder, phantom_folder)
    (folder / "there.csv").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--split=stratified"]) == 0
    return folder


@pytest.fixture
def trained(trained_once, monkeypatch):
    """A folder with a trained run, made once; tests may add files to it."""
    monkeypatch.chdir(trained_once)
    return trained_once


def predict(*words) -> pd.DataFrame:
    assert main(["predict", *map(str, words), f"--run={RUN}", "--out=out.csv", "--overwrite"]) == 0
    return pd.read_csv("out.csv", keep_default_na=False)


def test_a_folder_gives_one_row_an_input_in_order_unreadable_ones_with_the_reason(trained, phantom_folder, odd_images):
    folder = trained / "new"
    folder.mkdir()
    good = sorted((phantom_folder / "images").iterdir())[0]
    (folder / "b.png").write_bytes(good.read_bytes())
    (folder / "a.jpg").write_bytes(odd_images["cmyk.jpg"].read_bytes())
    (folder / "c.png").write_bytes(good.read_bytes()[:2000])
    (folder / "d.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    rows = predict(folder)
    assert list(rows) == ["image", "status", "predicted", *CLASSES, "decision", "outlier", "reason"]
    assert [name[-5:] for name in rows["image"]] == ["a.jpg", "b.png", "c.png", "d.jpg"]
    assert rows["status"].tolist() == ["ok", "ok", "unreadable", "unreadable"]
    assert "truncated" in rows["reason"][2] and "UnidentifiedImageError" in rows["reason"][3]
    assert not rows.loc[2:, [*CLASSES, "predicted", "decision"]].to_numpy().any()
    shares = rows.loc[:1, CLASSES].astype(float)
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert rows["predicted"][:2].tolist() == [name[2:] for name in shares.idxmax(axis=1)]


def test_an_image_and_a_table_give_the_same_as_a_folder(trained, phantom_folder):
    images = sorted((phantom_folder / "images").iterdir())[:3]
    table = phantom_folder.parent / "list.csv"
    table.write_text("id,image\n" + "".join(f"{number},{phantom_folder.name}/images/{image.name}\n"
                                            for number, image in enumerate(images)) + "9,gone.png\n")
    rows = predict(table)
    assert rows["image"].tolist()[-1] == "gone.png" and rows["reason"].tolist()[-1] == "no such file"
    whole = predict(phantom_folder / "images").set_index("image")
    one = predict(images[1])
    for row, image in ((rows.iloc[1], images[1]), (one.iloc[0], images[1]), (rows.iloc[0], images[0])):
        expected = whole.loc[str(image), CLASSES].astype(float)
        assert row[CLASSES].astype(float).tolist() == pytest.approx(expected.tolist(), abs=2e-5)


def test_predictions_are_those_of_the_best_epoch_of_validation(trained, phantom_folder):
    parts = pd.read_csv(f"results/{RUN}/split.csv")
    valid = parts[parts["part"] == "valid"]
    rows = predict(phantom_folder / "images").set_index("image")
    predicted = [rows["predicted"][str(phantom_folder / image)] for image in valid["image"]]
    log = pd.read_csv(f"results/{RUN}/training_log.csv")
    best = log.loc[log["val_loss"].idxmin()]
    assert (valid["label"] == predicted).mean() == pytest.approx(best["val_acc"], abs=1e-4)


def test_hidden_files_are_no_images_in_a_folder_or_a_pattern(tmp_path):
    for name in (".set/a/1.png", ".set/a/._1.png", ".set/__MACOSX/a/2.png", ".set/.cache/3.png", ".set/a/b/4.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = [str(tmp_path / ".set" / name) for name in ("a/1.png", "a/b/4.PNG")]
    assert list_inputs(tmp_path / ".set")[0] == images  # a folder that the user names may be hidden itself
    assert list_inputs(f"{tmp_path}/.set/**/*.[pP]*")[0] == images
    assert list_inputs(f"{tmp_path}/.s*/*/[1-9._]*")[0] == images[:1]


def test_a_pattern_and_standard_input_name_images_in_their_order(trained, phantom_folder, monkeypatch):
    images = sorted((phantom_folder / "images").iterdir())[:3]
    assert predict(phantom_folder / "images" / "*0*")["image"].tolist() == sorted(
        str(image) for image in (phantom_folder / "images").glob("*0*"))
    for end in ("\n", "\0"):
        named = [str(images[2]), "gone.png", str(images[0])]
        monkeypatch.setattr("sys.stdin", io.StringIO(end.join(named) + end))
        rows = predict("-")
        assert rows["image"].tolist() == named and rows["status"].tolist() == ["ok", "unreadable", "ok"]


def test_an_interrupted_prediction_goes_on_and_gives_the_same_file(trained, phantom_folder, monkeypatch, capsys):
    whole = predict(phantom_folder / "images", "--bs=8")
    bytes_of_whole = Path("out.csv").read_bytes()
    from busfast.inference import engines

    seen, original = [], engines.TorchEngine.infer

    def die(self, images):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(len(images))
        return original(self, images)
    words = ["predict", str(phantom_folder / "images"), f"--run={RUN}", "--bs=8", "--out=new.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(engines.TorchEngine, "infer", die)
        assert main(words) == 130
    said, after = capsys.readouterr()
    assert "to continue: the same command with --resume" in said and "busfast: interrupted" not in after
    assert not Path("new.csv").exists() and 8 < len(Path("new.csv.part").read_text().splitlines()) < len(whole)
    assert main(words) == 2
    assert "a prediction was interrupted. Continue it (--resume)" in capsys.readouterr().err
    with open("new.csv.part", "a") as file:
        file.write("half a ro")  # as a power cut leaves it
    assert main([*words, "--resume"]) == 0
    assert " of them kept" in capsys.readouterr().out
    assert Path("new.csv").read_bytes() == bytes_of_whole
    assert main([*words, "--resume"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    words[1] = str(phantom_folder / "images" / "*1.png")
    assert main([*words, "--resume"]) == 2
    assert "lists other inputs" in capsys.readouterr().err
    assert Path("new.csv").read_bytes() == bytes_of_whole
    assert not [path for path in trained.iterdir() if path.name.startswith("new.csv.part")]


def test_batches_side_by_side_give_the_same_rows(trained, phantom_folder):
    one = predict(phantom_folder / "images", "--bs=8")
    several = predict(phantom_folder / "images", "--bs=8", "--jobs=3")
    assert several["image"].equals(one["image"])
    apart = several[CLASSES].astype(float) - one[CLASSES].astype(float)
    assert apart.abs().to_numpy().max() <= 2e-6  # another number of threads rounds differently


def test_however_many_images_only_a_few_batches_are_in_memory():
    read, taken = [], 0

    class Engine:
        def read(self, path):
            read.append(path)
            return np.zeros((2, 2, 1), np.uint8)

        def infer(self, images):
            return Outputs(np.zeros((len(images), 2), np.float32), None)

    for reasons, found in stream(Engine(), range(1000), bs=10, threads=2, jobs=2):
        assert reasons == [""] * 10 and found.logits.shape == (10, 2)
        taken += 10
        assert len(read) - taken <= 10 * (2 + 2 + 3)
    assert sorted(read) == list(range(1000)) and taken == 1000


def test_an_exported_learner_predicts_the_same_without_busfast_and_dali(trained, phantom_folder):
    assert main(["export", f"--run={RUN}", "--format=learner"]) == 0
    images = sorted((phantom_folder / "images").iterdir())[:4]
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "busfast" or name.startswith("nvidia.dali"):
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Absent())
from pathlib import Path
from fastai.learner import load_learner
learn = load_learner("models/{RUN}/learner.pkl")
for image in {[str(image) for image in images]}:
    print("row", *learn.predict(Path(image))[2].tolist())
print("row", *learn.get_preds(dl=learn.dls.test_dl([{str(images[0])!r}]))[0][0].tolist())
assert not [name for name in sys.modules if name.startswith(("busfast", "nvidia.dali"))]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=trained)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("row")]
    there = [[float(value) for value in line[1:]] for line in lines]
    here = predict(phantom_folder / "images")[CLASSES].astype(float).to_numpy()[:4].tolist()
    for row, expected in zip(there, [*here, here[0]], strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_whole_numbers_may_be_written_as_everywhere_else(trained, phantom_folder):
    image = sorted((phantom_folder / "images").iterdir())[0]
    assert predict(image, "--threads=2.0", "--bs=4.0")["status"].tolist() == ["ok"]


@pytest.mark.parametrize(("words", "message"), [
    (["predict", "x", "--run=phantom/stratifed"], "There is no run 'phantom/stratifed'. Did you mean '" + RUN),
    (["predict", "gone.png", f"--run={RUN}"], "There is no file or folder 'gone.png'"),
    (["predict", "models", f"--run={RUN}"], "holds no image"),
    (["predict", f"results/{RUN}/training_log.csv", f"--run={RUN}"], "row 1: the column 'image' is missing"),
    (["predict", ".", f"--run={RUN}", "--out=there.csv"], "already exists"),
    (["predict", ".", f"--run={RUN}", "--out=no/where.csv"], "There is no folder no"),
    (["predict", ".", f"--run={RUN}", "--device=gpu"], "Unknown device 'gpu'"),
    (["predict", ".", f"--run={RUN}", "--bs=x"], "bs=x is not a whole number"),
    (["predict", ".", f"--run={RUN}", "--jobs=x"], "jobs=x is not a whole number"),
    (["predict", "*.nothing", f"--run={RUN}"], "No file matches the pattern '*.nothing'"),
    (["predict", "."], "predict needs --run=RUN (a run) or --model=FOLDER"),
    (["predict", ".", f"--run={RUN}", "--engine=onnx"], "do not apply to --run"),
    (["predict", ".", f"--run={RUN}", "--resume", "--overwrite"], "exclude each other"),
    (["export", "--run=../../etc"], "There is no run '../../etc'"),
    (["export", f"--run={RUN}", "--format=bundel"], "Unknown format 'bundel'. Did you mean 'bundle'?"),
])
def test_wrong_words_are_refused_and_change_nothing(trained, words, message, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_a_run_without_its_weights_says_so(trained, tmp_path, monkeypatch, capsys):
    for name in ("models", "results"):
        shutil.copytree(name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("models", RUN, "best.pth").unlink()
    assert main(["export", f"--run={RUN}"]) == 2
    assert "There is no weights file" in capsys.readouterr().err
