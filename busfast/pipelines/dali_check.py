"""Tries DALI on every image before training, in a process of its own: a file that ends that process would else take
the training with it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from busfast.progress import progress

if TYPE_CHECKING:
    import torch

BATCH = 64
COMMAND = (sys.executable, "-m", "busfast.pipelines.dali_check")
Batches = list[Sequence[str]]


def check_dali(paths: Sequence[str], device: "torch.device") -> None:
    """Has DALI decode each image once. Those that it cannot decode, or whose decoding ends its process, are named and
    from then on decoded by Pillow, in this process. `device`: that of the training."""
    from busfast.pipelines.dali_loader import gpu_number, refuse

    gpu, refused = gpu_number(device), []
    for path in progress(_refused_paths([paths[start:start + BATCH] for start in range(0, len(paths), BATCH)], gpu),
                         "trying DALI", len(paths)):
        refused += [path] if path else []
    refuse(refused)


def _refused_paths(batches: Batches, gpu: int | None) -> Iterator[str]:
    """Yields a path for each image that DALI cannot decode, and "" for each other one."""
    while batches:
        begun, ended = -1, False
        with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as child:
            try:
                child.stdin.write(json.dumps([batches, gpu]))
                child.stdin.close()
                for line in child.stdout:
                    begun, refused = json.loads(line)
                    if refused is not None:
                        yield from ("" if path not in refused else path for path in batches[begun])
                        ended = begun + 1 == len(batches)
            finally:
                child.kill()
        if ended:
            return
        if begun < 0:
            print(f"loader: DALI was not tried on the images before training: the process for that ended with status "
                  f"{child.returncode}")
            return
        if len(batches[begun]) == 1:
            yield batches[begun][0]
        batches = [*([path] for path in batches[begun] if len(batches[begun]) > 1), *batches[begun + 1:]]


def main() -> None:
    """Reads batches of paths from standard input, and writes a line of JSON as each begins and ends: its number, and
    then the paths that DALI cannot decode."""
    from busfast.pipelines.dali_formats import dali_mode
    from busfast.pipelines.dali_loader import decodes

    batches, gpu = json.load(sys.stdin)
    for number, paths in enumerate(batches):
        print(json.dumps([number, None]), flush=True)
        files = {path: np.fromfile(path, np.uint8) for path in paths}
        encoded = {path: data for path, data in files.items() if dali_mode(data)}
        refused = [path for path, data in encoded.items() if not decodes([data], gpu)] \
            if encoded and not decodes([*encoded.values()], gpu) else []
        print(json.dumps([number, refused]), flush=True)


if __name__ == "__main__":
    main()
