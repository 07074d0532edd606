"""In every place where a file is read, a pickle is refused or passed over: its code never runs."""

import hashlib
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.data import read_table
from busfast.data.fingerprint import cache_file, read_cache
from busfast.data.quarantine import LEFT_OUT_FILE, find_left_out
from busfast.errors import UserError
from busfast.training.checkpoint import MAGIC, NAME, PREVIOUS, read_last
from security.hostile import (
    BUNDLE,
    DATA,
    MODELS,
    RESULTS,
    RUN,
    contents,
    images,
    nothing_changes,
    pickles,
    refusal,
    refused,
    resign,
)

# file -> the verb that reads it. Each is refused with a message that names the file, and no other file is changed.
REFUSED = {
    "evil.pth": "train --weights=evil.pth",
    "evil.bin": "train --weights=evil.bin",
    "evil.safetensors": "train --weights=evil.safetensors",
    f"{MODELS}/best.pth": f"predict {DATA}/images --run={RUN} --out=out.csv",
    f"{MODELS}/learner.pkl": f"predict {DATA}/images --model={MODELS}/learner.pkl --out=out.csv",
    f"{BUNDLE}/bundle.json": f"predict {DATA}/images --model={BUNDLE} --out=out.csv",
    f"{BUNDLE}/weights.safetensors": f"predict {DATA}/images --model={BUNDLE} --out=out.csv",
    f"{BUNDLE}/outlier.safetensors": f"predict {DATA}/images --model={BUNDLE} --out=out.csv",
    f"{BUNDLE}/model.onnx": f"predict {DATA}/images --model={BUNDLE} --engine=onnx --out=out.csv",
    f"{DATA}/table.csv": "train",
    f"{DATA}/sources.csv": "train",
    f"{DATA}/audit/audit.csv": "audit",
    f"{DATA}/audit/labels.csv": "train",
    f"{DATA}/phantom.json": "train",
    "mine/train.csv": "train --split=mine",
    "mine/train.txt": "train --split=mine",
    "list.csv": f"predict list.csv --model={BUNDLE} --out=out.csv",
    "pipelines/phantom.yaml": "train",
    f"{RESULTS}/config.yaml": f"report --run={RUN}",
    f"{RESULTS}/split.csv": f"evaluate --run={RUN} --again",
    f"{RESULTS}/predictions.csv": f"report --run={RUN}",
    f"{RESULTS}/evaluation.yaml": f"report --run={RUN}",
    f"{RESULTS}/left_out.csv": f"report --run={RUN}",
    f"{RESULTS}/external/far/evaluation.yaml": f"evaluate --run={RUN} --data=far",
    f"{RESULTS}/summary.yaml": "compare",
    f"{RESULTS}/training_log.csv": "compare",
    f"{RESULTS}/metrics.csv": "compare",
    f"{RESULTS}/localisation.csv": f"report --run={RUN}",
    f"{RESULTS}/tracking.yaml": f"evaluate --run={RUN}",
    f"{RESULTS}/valid_predictions.csv": f"export --run={RUN}",
    "models/phantom/other/best.pth": f"ensemble --runs={RUN},phantom/other",
    "results/phantom/other/summary.yaml": f"ensemble --runs={RUN},phantom/other",
    "results/phantom/other/valid_predictions.csv": f"ensemble --runs={RUN},phantom/other",
    "out.csv.part.json": f"predict {DATA}/images --model={BUNDLE} --out=out.csv --resume",
    "results/phantom/sweep-stratified/journal.jsonl": "sweep --resume",
}

# What must lie beside a file for anybody to read it.
BESIDE = {"out.csv.part.json": "out.csv.part", f"{RESULTS}/localisation.csv": f"{RESULTS}/probes.csv",
          "mine/train.csv": "mine/valid.csv", "mine/train.txt": "mine/valid.csv"}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "evil was here"


@pytest.mark.parametrize("file", REFUSED)
def test_a_pickle_is_refused_and_its_code_does_not_run(exported_run, marker, file, capsys):
    if file in BESIDE:
        Path(BESIDE[file]).parent.mkdir(exist_ok=True)
        Path(BESIDE[file]).write_text("image\n")
    if file == f"{DATA}/phantom.json":
        (DATA / "table.csv").unlink()  # else the phantom is taken as it is
    if "other" in Path(file).parts:
        for folder in (RESULTS, MODELS):
            shutil.copytree(folder, folder.with_name("other"))
    if "external" in Path(file).parts:
        shutil.copytree(DATA, "far")
    Path(file).parent.mkdir(exist_ok=True, parents=True)
    with nothing_changes(but=Path(file)):
        for kind, content in pickles(marker).items():
            Path(file).write_bytes(content)
            message = refusal(REFUSED[file], capsys)
            assert Path(file).name in message or file == f"{DATA}/phantom.json", (kind, message)
            assert Path(file).read_bytes() == content and not marker.exists(), kind


def test_a_pickle_beside_a_table_does_not_run_whether_or_not_it_reads_as_a_csv(exported_run, marker):
    table = read_table(DATA)
    for kind, content in pickles(marker).items():
        (DATA / LEFT_OUT_FILE).write_bytes(content)
        with suppress(UserError):
            assert find_left_out(table).empty
        assert not marker.exists(), kind


@pytest.mark.parametrize("name", ["weights.safetensors", "outlier.safetensors", "model.onnx"])
def test_a_pickle_with_the_right_checksum_is_refused_too(exported_bundle, marker, name, capsys):
    engine = "onnx" if name == "model.onnx" else "torch"
    for content in pickles(marker).values():
        (BUNDLE / name).write_bytes(content)
        resign(BUNDLE)
        message = refused(f"predict {DATA}/images --model={BUNDLE} --engine={engine} --out=out.csv", capsys)
        assert "refused" in message or "cannot read model.onnx" in message
        assert not marker.exists()


def test_the_pickle_would_run_where_somebody_unpickles_it_and_with_trust(exported_bundle, marker, capsys):
    for kind, unpickle in (("text", pickle.loads), ("raw", pickle.loads), ("torch", None)):
        content = pickles(marker)[kind]
        if unpickle:
            unpickle(content)
        else:
            (MODELS / "learner.pkl").write_bytes(content)
            main(["predict", f"{DATA}/images", f"--model={MODELS}/learner.pkl", "--out=out.csv", "--trust"])
        assert marker.exists(), kind
        marker.unlink()


def test_an_image_that_is_a_pickle_is_unreadable_and_does_not_run(exported_run, marker, capsys):
    good, bad = images()[:2]
    Path("list.csv").write_text(f"image\n{good}\n{bad}\n")
    for content in pickles(marker).values():
        bad.write_bytes(content)
        assert main(["predict", "list.csv", f"--model={BUNDLE}", "--out=out.csv", "--overwrite"]) == 0
        rows = pd.read_csv("out.csv").set_index("image")["status"]
        assert rows[str(bad)] == "unreadable" and rows[str(good)] == "ok"
        assert "cannot be decoded" in refused("train", capsys)
        assert not marker.exists()


def test_a_mask_that_is_a_pickle_is_refused_and_does_not_run(exported_run, marker, capsys):
    for mask in (DATA / "masks").iterdir():
        mask.write_bytes(pickles(marker)["raw"])
    assert "The mask" in refused(f"explain --run={RUN}", capsys)
    assert not marker.exists()


def test_a_checkpoint_that_is_a_pickle_is_passed_over_whatever_its_checksum_says(tmp_path, marker):
    for content in pickles(marker).values():
        sealed = f"{MAGIC} {hashlib.sha256(content).hexdigest()}\n".encode() + content
        for name, data in ((NAME, sealed), (PREVIOUS, content)):
            (tmp_path / name).write_bytes(data)
        assert read_last(tmp_path) is None
        assert not marker.exists()


def test_caches_that_are_pickles_are_made_anew_and_do_not_run(exported_run, marker, monkeypatch, capsys):
    monkeypatch.setenv("BUSFAST_CACHE", str(exported_run / "cache"))
    assert main(["train", "--cache=auto"]) == 0

    def kept():
        return [path for path in Path("cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.suffix for path in kept()} == {".npz", ".pixels", ".jsonl", ".json"}
    before = contents("data")
    for content in pickles(marker).values():
        for path in kept():  # those that the last turn made anew
            path.write_bytes(content)
        assert main(["cache"]) == 0
        assert read_cache(cache_file([str(path.absolute()) for path in images()])) == {}
        capsys.readouterr()
        assert main(["cache", f"--data={DATA}"]) == 0
        assert "cache: decoding " in capsys.readouterr().out and not marker.exists()
    for path in kept():
        path.write_bytes(content)
    assert main(["train", "--cache=auto"]) == 0
    assert contents("data") == before and not marker.exists()


def test_a_file_for_which_pillow_would_run_a_program_is_not_opened(exported_run, marker, monkeypatch):
    """Pillow gives EPS to Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: marker.touch())
    image = images()[0]
    image.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(image) as opened, pytest.raises((AssertionError, AttributeError)):  # no image comes of it
        opened.load()
    assert marker.exists()  # so it would
    marker.unlink()
    assert main(["predict", str(image), f"--model={BUNDLE}", "--out=out.csv"]) == 2
    assert main(["audit"]) == 0
    assert not marker.exists()
    assert "UnidentifiedImageError" in Path("out.csv").read_text()


def test_a_folder_called_as_a_pickle_is_a_bundle(exported_bundle):
    shutil.copytree(BUNDLE, "model.pkl")
    assert main(["predict", str(images()[0]), "--model=model.pkl", "--out=out.csv"]) == 0
    assert np.isfinite(pd.read_csv("out.csv")["p_benign"]).all()
