"""Kills trainings with SIGKILL and compares what their resumed runs end with to a run that was never stopped.

    python tests/training/kills.py --kills=60 --folder=/tmp/kills

busfast is imported once; each attempt is forked from a process that has only imported it (with --real: python -m
busfast, killed at random moments). An attempt is killed at a random moment or, aimed, right before or after the n-th
rename or flush of a file, or in the n-th batch of training or validation. Prints one line for each run that was
compared; the exit status is 1 if one differed.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

START = 0.6  # share of a real process that goes by before training begins
ARCH = "test_efficientnet.r160_in1k"
PIPELINE = {"size": 64, "bs": 16, "arch": ARCH, "weights": "none", "device": "cpu", "seed": 3}
SCENARIOS = {
    # Stops early: the recall of a rare class does not improve for long.
    "early": {"epochs": 9, "monitor": "recall_benign", "patience": 2, "lr": 1e-3, "cache": "off"},
    # Warm weights, so that stages are frozen.
    "stages": {"epochs": 5, "freeze": 2, "freeze_after": 1, "weights": "start.pth"},
}
# Where to aim -> how often a run of five epochs passes there, at most.
AIMS = {"before replace": 24, "after replace": 24, "before fsync": 24, "after fsync": 24, "train": 20, "validate": 5}


def prepare(folder: Path) -> None:
    """Makes the images, the weights and a pipeline for each scenario."""
    import timm
    import torch

    from busfast.data.phantom import write_phantom

    write_phantom(folder / "data", images=90)
    torch.manual_seed(0)
    torch.save(timm.create_model(ARCH, num_classes=3).state_dict(), folder / "start.pth")
    (folder / "pipelines").mkdir()
    for name, own in SCENARIOS.items():
        (folder / "pipelines" / f"{name}.yaml").write_text(yaml.safe_dump({"data": "data"} | PIPELINE | own))


def aim(where: str, count: int) -> None:
    """Makes this process kill itself when it passes `where` for the `count`-th time."""
    from busfast.models.fast_step import FastLearner

    left = [count]

    def shoot(now: bool = True):
        left[0] -= now
        if now and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(own, before: bool):
        def call(*args, **kwargs):
            shoot(before)
            result = own(*args, **kwargs)
            shoot(not before)
            return result
        return call

    when, _, name = where.partition(" ")
    if name:
        setattr(os, name, wrapped(getattr(os, name), when == "before"))
    else:
        own = FastLearner._do_one_batch

        def one_batch(learn):
            own(learn)
            shoot(learn.training == (where == "train"))
        FastLearner._do_one_batch = one_batch


def attempt(folder: Path, argv: list[str], where: str | None = None, count: int = 0,
            after: float | None = None, real: bool = False) -> int:
    """Trains in a process of its own; returns its exit status, -9 if it was killed.

    Args:
        folder: to work in.
        argv: after `python -m busfast`.
        where, count: as those of `aim`.
        after: seconds after which it is killed.
        real: run python -m busfast.
    """
    if real:
        with open(folder / "output.txt", "a") as output:
            child = subprocess.Popen([sys.executable, "-m", "busfast", *argv], cwd=folder, stdout=output,
                                     stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)}).pid
    else:
        child = os.fork()
    if child == 0:
        status = 70
        try:
            os.chdir(folder)
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1), os.dup2(output, 2)
            if where:
                aim(where, count)
            from busfast.cli import main
            status = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    if after is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def differences(one: Path, other: Path) -> list[str]:
    """Returns what differs between two trained runs, each a folder with its results/ and models/."""
    import pandas as pd
    import torch

    found = []
    for room in ("results", "models"):
        names = [sorted(path.name for path in (folder / room).iterdir()) for folder in (one, other)]
        if names[0] != names[1]:
            found.append(f"files of {room}: {names[0]} and {names[1]}")
    for name in ("best.pth", "final.pth"):
        first, second = (torch.load(folder / "models" / name, weights_only=True) for folder in (one, other))
        if first.keys() != second.keys() or not all(torch.equal(value, second[key]) for key, value in first.items()):
            found.append(name)
    for room, name in (("results", "valid_predictions.csv"), ("results", "split.csv"), ("models", "best.pth")):
        if (one / room / name).read_bytes() != (other / room / name).read_bytes():
            found.append(f"bytes of {name}")
    logs = [pd.read_csv(folder / "results" / "training_log.csv", dtype=str).drop(columns="seconds")
            for folder in (one, other)]
    if not logs[0].equals(logs[1]):
        found.append("training_log.csv")
    ends = [yaml.safe_load((folder / "results" / "summary.yaml").read_text()) for folder in (one, other)]
    found += [f"summary.yaml, {key}" for key in ("state", "epochs", "best_epoch", "monitor")
              if ends[0][key] != ends[1][key]]
    return found


def view(folder: Path, pipeline: str, number: int) -> Path:
    """Returns a folder with the links results and models to those of a pipeline's n-th run, for `differences`."""
    made = folder / "views" / f"{pipeline}-{number}"
    made.mkdir(parents=True)
    for room in ("results", "models"):
        (made / room).symlink_to(folder / room / pipeline / ("stratified" + (f"-{number}" if number > 1 else "")))
    return made


def hunt(folder: Path, scenario: str, loader: str, kills: int, draw: random.Random, real: bool) -> bool:
    """Kills a scenario's runs `kills` times in all; returns whether each ended like the one that was not killed."""
    argv = ["train", f"--pipeline={scenario}", f"--loader={loader}"]
    start = time.monotonic()
    if attempt(folder, argv, real=real) != 0:
        raise SystemExit((folder / "output.txt").read_text())
    took = time.monotonic() - start
    reference = view(folder, scenario, 1)
    state = yaml.safe_load((reference / "results" / "summary.yaml").read_text())["state"]
    print(f"{scenario}, {loader}: {state}, {took:.1f} s without a stop", flush=True)
    good, number, left = True, 1, kills
    while left > 0:
        number, hits, resume = number + 1, [], []
        while True:
            if draw.random() < 0.5 and not real:
                where = draw.choice(list(AIMS))
                how = {"where": where, "count": draw.randint(1, AIMS[where])}
            else:
                how = {"after": draw.uniform(START * took if real else 0, took)}
            status = attempt(folder, argv + resume, real=real, **(how if left > 0 else {}))
            if status == 0:
                break
            if status != -signal.SIGKILL:
                print((folder / "output.txt").read_text()[-3000:])
                return False
            left -= 1
            hits.append(how.get("where", "random"))
            begun = (folder / "results" / scenario / f"stratified-{number}").exists()
            resume = ["--resume"] if begun else []  # else --resume would find the run before, which is done
        found = differences(reference, view(folder, scenario, number))
        good &= not found
        print(f"  run {number}: {len(hits)} kills ({', '.join(hits) or 'none'}): "
              + ("the same" if not found else f"DIFFERS in {'; '.join(found)}"), flush=True)
    return good


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=8, help="in all, spread over the scenarios")
    every = ",".join(f"{name}:{loader}" for loader in ("dali", "torchvision") for name in SCENARIOS)
    parser.add_argument("--scenarios", default=every, help="SCENARIO:LOADER, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--real", action="store_true", help="kill python -m busfast itself")
    flags = parser.parse_args(argv)
    flags.folder = flags.folder.resolve()
    os.environ["BUSFAST_CACHE"] = str(flags.folder / "cache")
    import busfast.cli
    import busfast.training.batch_size  # noqa: F401
    import busfast.training.fit  # noqa: F401
    import busfast.training.resume  # noqa: F401
    import busfast.training.train  # noqa: F401  (so that no attempt imports it again)
    from training.blank_curves import draw_blank_batch, draw_blank_curves

    busfast.training.curves.draw_curves = draw_blank_curves  # but with --real
    busfast.training.curves.draw_batch = draw_blank_batch
    print(f"busfast: {busfast.__file__}", flush=True)
    prepare(flags.folder)
    scenarios = [item.split(":") for item in flags.scenarios.split(",")]
    draw, good = random.Random(flags.seed), True
    for number, (scenario, loader) in enumerate(scenarios):
        kills = flags.kills * (number + 1) // len(scenarios) - flags.kills * number // len(scenarios)
        work = flags.folder / f"{scenario}-{loader}"
        work.mkdir()
        for name in ("data", "pipelines", "start.pth"):
            (work / name).symlink_to(flags.folder.resolve() / name)
        good &= hunt(work, scenario, loader, kills, draw, flags.real)
    print(f"{flags.kills} kills: " + ("every run ended as one that was never stopped" if good else "DIFFERENT"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
