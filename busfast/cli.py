"""The verbs of `python -m busfast VERB`. Fire parses the line; nothing runs before all of it is checked."""

import contextlib
import functools
import inspect
import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fire

from busfast import __version__
from busfast.errors import UserError, choose


def train(split: str = "stratified", pipeline: str = None, data: str = None, holdout: str = None, epochs: int = None,
          size: int = None, bs: int = None, lr: float = None, lr_min: float = None, patience: int = None,
          monitor: str = None, arch: str = None, weights: str = None, seed: int = None, loader: str = None,
          device: str = None, threads: int = None):
    """Trains one split (or all) of a set of images and writes results/ and models/.

    Flags that are left out keep the value of the pipeline file, or else the default given here.

    Args:
        split: stratified, center_holdout, or all (those that the pipeline file lists, then the comparison).
        pipeline: name of a file in pipelines/, or the path of one (a run's config.yaml too). Default: the one named
            after the data folder, else phantom.
        data: folder with table.csv and the images.
        holdout: centers to hold out as the test part of center_holdout, separated by commas.
        epochs: number of epochs; the learning rate falls over all of them. Default 50.
        size: side of the model's input, pixels. Default 224.
        bs: images a batch. Default 32.
        lr: learning rate at the start. Default 1e-3.
        lr_min: learning rate at the end. Default 1e-6.
        patience: epochs without a better monitor before it stops early. Default 7.
        monitor: logged column that chooses the best epoch: val_loss, val_acc, macro_auc, recall_CLASS, train_loss.
        arch: any timm model. Default efficientnet_b0.
        weights: auto, none, or a file (safetensors or weights-only checkpoint).
        seed: of split, weights, order and augmentation. Default 42.
        loader: auto, dali or torchvision, for training; validation has the same reference pixels with each.
        device: auto, cuda, mps or cpu.
        threads: decoding threads; 0: one a core.
    """
    flags = dict(locals())
    del flags["split"]
    name, config, splits = _configure(split, flags, several=True)
    from busfast.results.compare import compare_runs
    from busfast.results.train import check_environment, load_table, split_data, train_run

    check_environment(config)
    table = load_table(config)
    for one in splits[1:]:
        split_data(table, config, one)  # a split that cannot be made is found before the first one trains
    for one in splits:
        train_run(name, config, one, table)
    if split == "all":
        _print_comparison(*compare_runs())


def lr_find(split: str = "stratified", pipeline: str = None, data: str = None, holdout: str = None, size: int = None,
            bs: int = None, arch: str = None, weights: str = None, seed: int = None, loader: str = None,
            device: str = None, threads: int = None):
    """Suggests a learning rate (fastai's finder) and draws results/PIPELINE/lr_find-SPLIT/lr_find.png.

    Args:
        split: stratified or center_holdout.
        pipeline: name of a file in pipelines/, or the path of one.
        data: folder with table.csv and the images.
        holdout: centers to hold out, separated by commas (center_holdout).
        size: side of the model's input, pixels.
        bs: images a batch.
        arch: any timm model.
        weights: auto, none, or a file.
        seed: of split, weights, order and augmentation.
        loader: auto, dali or torchvision.
        device: auto, cuda, mps or cpu.
        threads: decoding threads; 0: one a core.
    """
    flags = dict(locals())
    del flags["split"]
    name, config, _ = _configure(split, flags)
    from busfast.results.lr_find import find_lr
    from busfast.results.train import check_environment, load_table

    check_environment(config)
    suggested, folder = find_lr(name, config, split, load_table(config))
    print(f"suggested learning rate: {suggested:.2e}   (train with --lr={suggested:.1e})")
    print(f"curve: {folder}/lr_find.png, lr_find.csv")


def compare():
    """Prints the table of runs and writes results/compare.csv and results/compare.md."""
    from busfast.results.compare import compare_runs

    _print_comparison(*compare_runs())


def export(*, run: str):
    """Exports a run's best weights as a fastai learner, models/RUN/learner.pkl.

    It loads with fastai's load_learner where neither busfast nor DALI is installed.

    Args:
        run: name of a run, such as phantom/stratified.
    """
    from busfast.results.runs import find_run

    found = find_run(run)
    from busfast.models.export import export_learner

    path = found.models / "learner.pkl"
    replaced = path.exists()
    export_learner(_load(found), path)
    print(("replaced " if replaced else "wrote ") + f"{path} ({path.stat().st_size / 1e6:.0f} MB)")
    print("Load it with fastai: load_learner(path). Like any pickle, only from someone you trust. "
          "Research only, not a medical device.")


def predict(inputs: str, *, run: str, out: str = "predictions.csv", overwrite: bool = False, bs: int = 32,
            device: str = None, threads: int = None):
    """Predicts an image, a folder, or a table with a run's best weights; one row an input.

    Args:
        inputs: an image, a folder (searched with its subfolders), or a CSV file with a column image.
        run: name of a run, such as phantom/stratified.
        out: the CSV file to write.
        overwrite: replace it if it is there.
        bs: images a batch.
        device: auto, cuda, mps or cpu; default: as in training.
        threads: decoding threads; 0: one a core.

    Raises:
        UserError: wrong input, or not one of the inputs could be read (the rows with the reasons are written).
    """
    from busfast.pipelines.config import Config
    from busfast.results.runs import find_run

    found = find_run(run)
    flags = {key: value for key, value in (("bs", bs), ("device", device), ("threads", threads)) if value is not None}
    checked = Config(**flags)
    out = Path(out)
    if out.exists() and not overwrite:
        raise UserError(f"{out} is already there. Name another file (--out=FILE) or replace it (--overwrite).")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent} to write {out.name} to. Make it first.")
    from busfast.files import atomic
    from busfast.models.predict import list_inputs, predict_images

    names, paths = list_inputs(inputs)
    table = predict_images(_load(found, **{key: getattr(checked, key) for key in flags}), paths)
    table["image"] = names
    with atomic(out) as file:
        table.to_csv(file, index=False, float_format="%.6f")
    bad = int((table["status"] != "ok").sum())
    print(f"wrote {out}: {len(table)} rows" + (f", {bad} unreadable (see column reason)" if bad else ""))
    print("Research only, not a medical device.")
    if bad == len(table):
        raise UserError(f"None of the {bad} inputs could be read; the reasons are in {out}. Paths in a table are "
                        "relative to its folder.")


VERBS = {"train": train, "lr_find": lr_find, "compare": compare, "export": export, "predict": predict}


def _configure(split: str, flags: dict, several: bool = False):
    """Checks split and configuration; returns the pipeline's name, the configuration and the splits to run."""
    from busfast.data.split import SPLITS
    from busfast.data.table import read_table
    from busfast.pipelines.config import load_config

    choose("split", split, [*SPLITS, "all"] if several else SPLITS)
    name, config = load_config(flags.pop("pipeline") or "", **flags)
    if not config.data:
        raise UserError(f"The pipeline '{name}' names no data folder. Add a line `data: FOLDER` to its file, or give "
                        "--data=FOLDER.")
    if not config.source:
        read_table(config.data, config.classes)  # a wrong table is refused before torch and fastai are imported
    splits = config.splits if split == "all" else (split,)
    if flags["holdout"] and "center_holdout" not in splits:
        raise UserError(f"--holdout={flags['holdout']} has no meaning for --split={split}. "
                        "Use it with center_holdout, or leave it out.")
    print(f"pipeline: {name}", flush=True)
    return name, config, splits


def _load(run, **flags):
    """Loads a run's best weights the way the run was trained, but for the flags given."""
    from busfast.models.predict import load_model
    from busfast.pipelines.image import ImagePipeline

    config, record = run.read_config()
    image = ImagePipeline(config.size, config.resize, config.channels,
                          mean=tuple(record["weights"]["mean"]), std=tuple(record["weights"]["std"]))
    given = {"device": config.device, "threads": config.threads} | flags
    return load_model(run.models / "best.pth", config.arch, image, config.classes, **given)


def _print_comparison(table, csv: Path, markdown: Path) -> None:
    print("\n" + table.round(3).to_string(index=False))
    print(f"wrote {csv} and {markdown} (every figure is of the validation part)")


def _check(argv: list[str]) -> None:
    """Refuses a misspelt verb or flag, a flag without its value, and anything left over; names the nearest."""
    verb = choose("verb", argv[0], VERBS)
    parameters = inspect.signature(VERBS[verb]).parameters
    needed = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    given, loose = {}, []
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-"):
            loose.append(word)
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        flag = flag.replace("-", "_")
        if flag not in parameters or not word.startswith("--"):
            flags = [f"--{name}" for name in parameters]
            try:
                choose(f"flag of {verb}", word.partition("=")[0], flags or ["--help"])
            except UserError as error:
                raise UserError(f"{error} More: python -m busfast {verb} --help") from None
        if flag in given:
            raise UserError(f"--{flag} is given twice: {given[flag]} and {value}.")
        if not equals:
            value = "True" if parameters[flag].annotation is bool else next(words, "")
        if parameters[flag].annotation is bool:
            choose(f"value of --{flag}", value, ("True", "False"))
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"--{flag} needs a value: --{flag}=VALUE.")
        given[flag] = value
    free = [name for name in needed if name not in given]
    if len(loose) > (allowed := 1 if verb == "predict" and "inputs" in free else 0):
        raise UserError(f"'{loose[allowed]}' is left over: every value has its flag, --FLAG=VALUE. "
                        f"More: python -m busfast {verb} --help")
    for name in free[len(loose):]:
        what = "an image, folder or table" if name == "inputs" else f"--{name}=VALUE"
        raise UserError(f"{verb} needs {what}. More: python -m busfast {verb} --help")


class Call(NamedTuple):
    """A line that was parsed and not yet run (Fire would run anything callable by itself)."""

    verb: Callable
    args: tuple
    kwargs: dict


def _parse(argv: list[str]) -> Call:
    """Lets Fire parse the whole line; returns what is to be called."""
    def recorded(verb):
        @functools.wraps(verb)
        def record(*args, **kwargs):
            kwargs |= {name: str(value) == "True" for name, value in kwargs.items() if name == "overwrite"}
            return Call(verb, args, kwargs)
        return record

    return fire.Fire({name: recorded(verb) for name, verb in VERBS.items()}, command=argv, name="busfast",
                     serialize=lambda call: None)


def _quote(word: str) -> str:
    """Makes Fire take a value as text (it would read 1e5 and 01 as numbers); types are checked with the values."""
    if not word.startswith("--"):
        return repr(word)
    flag, equals, value = word.partition("=")
    return flag + equals + (repr(value) if equals else "")


def _help(argv: list[str]) -> None:
    """Prints Fire's help page, without the short flags that busfast does not take."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        with contextlib.suppress(fire.core.FireExit):
            _parse([*argv, "--help"])
    page = re.sub(r"INFO: .*\n+", "", text.getvalue()).split("\nNOTES\n")[0]  # busfast takes values by flag alone
    page = re.sub(r"^    -\w, --", "    --", page, flags=re.MULTILINE)
    page = re.sub(r"Optional\[(\w+)\]", r"\1", re.sub(r" *Default: None\n", "", page))
    print(page.strip())


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status: 0 done, 2 wrong input, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # fastai's import, not the user's
    try:
        if argv == ["--version"]:
            print(f"busfast {__version__}")
            return 0
        if not argv or {"--help", "-h"} & set(argv):
            _help([choose("verb", argv[0], VERBS)] if argv and not argv[0].startswith("-") else [])
            return 0
        _check(argv)
        call = _parse([argv[0], *map(_quote, argv[1:])])
        call.verb(*call.args, **call.kwargs)
    except UserError as error:
        print(f"busfast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("busfast: interrupted", file=sys.stderr)
        return 130
    except fire.core.FireExit as end:
        return end.code
    except BrokenPipeError:  # `busfast ... | head`
        sys.stdout = None
        return 141
    return 0
