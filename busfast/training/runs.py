"""A run: its folders results/<pipeline>/<split>/ and models/<pipeline>/<split>/, its configuration and its record."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from busfast import __version__
from busfast.errors import UserError, suggest
from busfast.files import atomic, file_lock
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import load_config
from busfast.text import listed
from busfast.yamlfile import read_yaml

RESULTS, MODELS = Path("results"), Path("models")
DONE = ("finished", "stopped early")  # states in summary.yaml of a run that is completely trained
LOCK = ".lock"  # in a run's folder of models, held by the process that trains it
LEARNER_FILE = "learner.py"  # a copy of the file that was given as --learner
PACKAGES = ("torch", "torchvision", "fastai", "timm", "nvidia-dali-cuda130", "numpy", "pandas", "pillow",
            "scikit-learn")


@dataclass(frozen=True)
class Run:
    """A run, by its name, such as "phantom/stratified"."""

    name: str

    @property
    def results(self) -> Path:
        """Folder of config.yaml, split.csv, the log, the curves and summary.yaml."""
        return RESULTS / self.name

    @property
    def models(self) -> Path:
        """Folder of best.pth, final.pth and exported models."""
        return MODELS / self.name

    def read_config(self) -> tuple[Config, dict[str, Any]]:
        """Returns the configuration and the record (`run:`) of config.yaml; UserError if it cannot be read."""
        path = self.results / "config.yaml"
        return load_config(str(path))[1], read_yaml(path).get("run") or {}

    def read_summary(self) -> dict[str, Any]:
        """Returns the content of summary.yaml; {} while the run is unfinished."""
        path = self.results / "summary.yaml"
        return read_yaml(path) if path.is_file() else {}

    def best_weights(self) -> Path:
        """Returns best.pth, which may be missing; UserError if its checksum is not the one in summary.yaml."""
        path = self.models / "best.pth"
        expected = (self.read_summary().get("sha256") or {}).get(path.name)
        if expected and path.is_file() and file_sha256(path) != expected:
            raise UserError(f"{path} is not the file that {self.name} was trained to (its SHA-256 is not the one in "
                            f"{self.results / 'summary.yaml'}): it was replaced or damaged. Restore it, or train "
                            "again.")
        return path


def new_run(pipeline: str, split: str) -> Run:
    """Makes the folders of a new run, or raises UserError; no existing name is used again (`stratified-2`, ...)."""
    number = 1
    while True:
        run = Run(f"{pipeline}/{split}" + (f"-{number}" if number > 1 else ""))
        number += 1
        if run.results.exists() or run.models.exists():
            continue
        try:
            run.results.mkdir(parents=True)
            run.models.mkdir(parents=True)
        except FileExistsError:
            if run.results.is_dir() or run.models.is_dir():
                continue  # another process has just taken the name
            raise UserError(f"Cannot create {run.results}: a part of that path is a file. Move it away.") from None
        except OSError as error:
            raise UserError(f"Cannot create the run's folders {run.results} and {run.models}: {error.strerror}. "
                            "Work in a folder that you may write to.") from error
        return run


def discard_run(run: Run) -> None:
    """Removes the folders of a run in which nothing was trained."""
    shutil.rmtree(run.results)
    shutil.rmtree(run.models)


def find_run(name: str) -> Run:
    """Returns an existing run.

    Raises:
        UserError: there is no such run; the message names the nearest.
    """
    run = Run(str(Path(name.removeprefix("results/").removeprefix("models/"))))
    if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
        if os.path.isfile(run.results / "config.yaml"):  # False, too, for names that are no valid path
            return run
    names = [run.name for run in all_runs()]
    if inside := [one for one in names if one.startswith(f"{run.name}/")]:
        raise UserError(f"'{name}' is a pipeline. Name one of its runs: {listed(inside)}.")
    if os.path.isfile(Path(name) / "bundle.json"):
        raise UserError(f"'{name}' is no run but an exported model: --model={name}")
    known = f"Runs here: {listed(names)}." if names else "There are no runs here yet: python -m busfast train"
    hint = suggest(run.name, [*names, *(one.split("/")[0] for one in names)])
    raise UserError(f"There is no run '{name}'.{hint} {known}")


def refuse_while_training(run: Run) -> None:
    """Raises UserError if another process trains a run: its weights are not its last."""
    def refuse() -> None:
        raise UserError(f"{run.name} is still training, in another process. Wait for its end.")

    if (run.models / LOCK).is_file():  # left by a killed process, it locks nothing
        with file_lock(run.models / LOCK, refuse, "trains this run"):
            pass


def describe_unfinished(run: Run, config: Config, record: dict[str, Any]) -> str:
    """Returns how a training ended too early, and the command that goes on with it; "" if it did not."""
    summary, log = run.read_summary(), run.results / "training_log.csv"
    if summary.get("state") in DONE:
        return ""
    epochs = max(0, len(log.read_bytes().splitlines()) - 1) if log.is_file() else 0
    more = f" To go on: {train_command(run, record)} --resume" if "split" in record else ""
    return (f"Training {'failed' if summary.get('state') == 'failed' else 'was interrupted'} after {epochs} of "
            f"{config.epochs} epochs; these are the weights of its best epoch so far.{more}")


def all_runs() -> list[Run]:
    """Returns every run below results/, sorted by name."""
    return [Run(path.parent.relative_to(RESULTS).as_posix()) for path in sorted(RESULTS.glob("*/*/config.yaml"))]


def find_other_images(pipeline: str, data: str) -> tuple[str, str]:
    """Returns a run of a pipeline whose images are elsewhere, and where; "" and "" if there is none, if another run is
    of the images at `data`, or if they are there no longer (a folder may have been moved)."""
    others = ("", "")
    if not os.path.isdir(RESULTS / pipeline):  # nor can there be one of a name that is too long
        return others
    for file in sorted((RESULTS / pipeline).glob("*/config.yaml")):
        there = str(read_yaml(file).get("data") or "")
        if there and _folder_of(there) == _folder_of(data):
            return "", ""
        if there and Path(there).exists():
            others = f"{pipeline}/{file.parent.name}", there
    return others


def _folder_of(data: str) -> Path:
    path = Path(data).resolve()
    return path.parent if path.name == "table.csv" else path


def write_config(run: Run, config: Config, record: dict[str, Any]) -> None:
    """Writes config.yaml: a pipeline file that trains the run again, with the record under `run:`."""
    text = yaml.safe_dump(plain_values(config) | {"run": record}, sort_keys=False, allow_unicode=True)
    with atomic(run.results / "config.yaml") as file:
        file.write(f"# To run this again: {train_command(run, record)}\n" + text)


def plain_values(config: Config) -> dict[str, Any]:
    """Returns a configuration in values of YAML and JSON: lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(config).items()}


def train_command(run: Run, record: dict[str, Any], file: str = "config.yaml") -> str:
    """Returns the command that trains a run again from its config.yaml; `record` is `run:` of that file."""
    if record.get("members"):
        return f"python -m busfast ensemble {shlex.quote('--runs=' + ','.join(record['members']))}"
    flags = [f"--pipeline={run.results / file}", f"--split={record['split']}",
             *([f"--fold={record['fold']}"] if record["fold"] else []),
             *(["--allow-leaks"] if record["leaks"] else []),
             *([f"--learner={run.results / LEARNER_FILE}"] if record.get("learner") else [])]
    return f"python -m busfast train {shlex.join(flags)}"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a YAML file of plain values."""
    with atomic(path) as file:
        yaml.safe_dump(record, file, sort_keys=False, allow_unicode=True)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def provenance(table_sha256: str) -> dict[str, Any]:
    """Returns what a record keeps of the time, the installed versions and the table (see `hash_data`)."""
    versions = {"busfast": __version__, "python": platform.python_version(), **installed(PACKAGES)}
    return {"created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "platform": platform.platform(), "versions": versions,
            "table_sha256": table_sha256}


def file_sha256(path: str | Path) -> str:
    """Returns a file's SHA-256, hexadecimal; UserError if it is missing or not regular (a pipe might never end)."""
    if not os.path.isfile(path):
        raise UserError(f"{path} is missing. Restore it.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
