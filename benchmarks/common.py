"""What the studies share: their flags, a temporary folder, and the table, page and chart that they write."""

import argparse
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from busfast.bench import read_settings
from busfast.bench.report import Report, publish
from busfast.errors import UserError
from busfast.files import make_folder
from busfast.processes import threads_per_process
from busfast.progress import progress

warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # fastai's import

HELP = {  # of the flags, and of the arguments of the studies' `run` that its docstring does not name
    "data": "folder with table.csv and the images", "images": "number of images", "arch": "any timm model",
    "size": "side of the images, pixels", "bs": "images per batch", "rounds": "measurements of each row",
    "threads": "decoding threads", "seeds": "seeds of the trainings, separated by commas",
    "model": "a bundle", "split": "split.csv of a run", "others": "folders of other images, separated by commas",
    "keep": "folder for what each training predicts; what is in it is not trained again",
    "device": "cpu, cuda or mps", "jobs": "trainings that run at once",
    "only": "measure only rows whose name contains one of these words, separated by commas",
}


def run_study(study: str, page: str, defaults: dict[str, Any], run: Callable[..., Report],
              argv: Sequence[str] | None = None) -> None:
    """Runs a study with the flags of a command line; writes STUDY.csv, STUDY.md and STUDY.png.

    Args:
        study: its name, which is that of its script.
        page: its help.
        defaults: flag -> default; a flag without one (None) is required.
        run: is given a temporary folder and the flags' values; returns the report.
        argv: the flags; None: those of this process.

    Raises:
        SystemExit: a wrong flag or value (status 2), or --help.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(f"python benchmarks/{study}.py", description=page, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in defaults.items():
        shown = "required" if default is None else f"default: {default}" if default != "" else "default: all"
        parser.add_argument(f"--{flag}", required=default is None, default=argparse.SUPPRESS, metavar="VALUE",
                            help=f"{HELP[flag]} ({shown})")
    parser.add_argument("--out", default="results/bench", metavar="FOLDER",
                        help="folder to write to (default: results/bench)")
    given = vars(parser.parse_args(argv))
    out = Path(given.pop("out"))
    try:
        settings = read_settings(study, defaults, given)
        make_folder(out)
        with tempfile.TemporaryDirectory(prefix="busfast-bench-") as folder:
            report = run(folder=Path(folder), **settings)
        publish(report, out, study, shlex.join(["python", f"benchmarks/{study}.py", *argv]))
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def threads_of(jobs: int) -> int:
    """Returns the threads of each of `jobs` trainings at once: its share of the cores; 0, which means all, of one."""
    return threads_per_process(jobs) if jobs > 1 else 0


def run_all(trainings: Sequence[Callable[[], None]], jobs: int) -> None:
    """Runs trainings, which can be pickled, `jobs` at once: each in a process of its own if that is more than one."""
    if jobs == 1:
        for train in progress(trainings, "training"):
            train()
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            for done in progress([pool.submit(train) for train in trainings], "training"):
                done.result()
