"""Hostile files: pickles that run a program when they are loaded, in every wrapping, and forged bundles."""

import hashlib
import io
import json
import pickle
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import torch

from busfast.cli import main

RUN = "phantom/stratified"
MODELS, RESULTS, DATA = Path("models") / RUN, Path("results") / RUN, Path("data") / "phantom"
BUNDLE = MODELS / "bundle"


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickles(marker: Path) -> dict[str, bytes]:
    """The same pickle in every wrapping that some library would unpickle; name -> bytes."""
    evil, files = Evil(marker), {name: io.BytesIO() for name in ("torch", "old torch", "npy", "npz", "joblib")}
    torch.save({"conv_stem.weight": evil}, files["torch"])
    torch.save({"conv_stem.weight": evil}, files["old torch"], _use_new_zipfile_serialization=False)
    np.save(files["npy"], np.array([evil], object), allow_pickle=True)
    np.savez(files["npz"], text=np.array([evil], object), numbers=np.array([evil], object))
    joblib.dump(evil, files["joblib"])
    return {"text": pickle.dumps(evil, protocol=0), "raw": pickle.dumps(evil)} | {
        name: file.getvalue() for name, file in files.items()}


def contents(*folders) -> dict[Path, str]:
    """Returns file -> hash of all files below folders."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders or ("data", "models", "results", "pipelines")
            for path in Path(folder).rglob("*") if path.is_file()}


@contextmanager
def nothing_changes(but: Path | None = None):
    """Fails if any file of the working folder is changed, made or removed, other than `but`."""
    def others():
        return {path: digest for path, digest in contents().items() if path != but}

    before = others()
    yield
    assert others() == before


def refused(words: str, capsys) -> str:
    """Runs a command line that must be refused, and must change nothing; returns the message."""
    with nothing_changes():
        return refusal(words, capsys)


def refusal(words: str, capsys) -> str:
    """Runs a command line that must be refused; returns the message."""
    capsys.readouterr()
    assert main(words.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("busfast: ")
    return message


def resign(bundle: Path, **changes) -> None:
    """Changes keys of bundle.json and gives every file there its right checksum, as whoever forges a bundle would."""
    facts = json.loads((bundle / "bundle.json").read_text()) | changes
    if "files" not in changes:
        facts["files"] = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in facts["files"]}
    (bundle / "bundle.json").write_text(json.dumps(facts))


def images() -> list[Path]:
    """The images of the data folder, in order."""
    return sorted((DATA / "images").iterdir())
