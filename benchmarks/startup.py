"""How long `train` takes from the command to its first batch, with the images of the phantom in the cache.

    python benchmarks/startup.py --repeats=5

Prints seconds of the clock and of the processor (all cores together), and their medians; on a busy machine only the
latter can be compared. A first, unmeasured run makes the phantom and fills the cache. PYTHONPATH decides which busfast
is measured: none is imported here.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMAND = ("-m", "busfast", "train", "--epochs=1", "--device=cpu")
MARK = "first batch at "
# The file of --learner, which ends the training as soon as the first batch is there.
LEARNER = f"""
import os, time

def first_batch(i, batch):
    print("{MARK}", repr(time.time()), sep="", flush=True)
    os._exit(0)

def learner(learn):
    learn.one_batch = first_batch
"""


def measure(folder: Path, flags: Sequence[str]) -> tuple[float, float]:
    """Starts a training and ends it at its first batch.

    Args:
        folder: the working folder; also holds the cache.
        flags: further flags of `busfast train`.

    Returns:
        Seconds of the clock and of the processor, from the start of the process to the first batch.

    Raises:
        SystemExit: the training ended before that; its output says why.
    """
    environment = os.environ | {"BUSFAST_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    (folder / "first_batch.py").write_text(LEARNER)
    start, cpu = time.time(), cpu_seconds()
    done = subprocess.run([sys.executable, *COMMAND, "--learner=first_batch.py", *flags], cwd=folder, env=environment,
                          capture_output=True, text=True)
    times = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not times:
        sys.exit(f"No batch was made:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(times[0]) - start, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Returns the processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python benchmarks/startup.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Further flags are those of `busfast train`.")
    parser.add_argument("--repeats", type=int, default=5, metavar="NUMBER", help="measured runs (default: 5)")
    given, flags = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory(prefix="busfast-bench-") as folder:
        measure(Path(folder), flags)
        rows = [measure(Path(folder), flags) for _ in range(given.repeats)]
    for name, values in zip(("clock", "processor"), zip(*rows, strict=True), strict=True):
        print(f"{name}: median {statistics.median(values):.2f} s ({', '.join(f'{value:.2f}' for value in values)})")


if __name__ == "__main__":
    main()
