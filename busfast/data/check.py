"""Decodes every image of a table before training, so that a broken one is found now and not in epoch 7."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from busfast.data.images import unreadable
from busfast.errors import UserError


def find_unreadable(paths: Sequence[str | Path], threads: int | None = None) -> list[str]:
    """Decodes files in parallel (Pillow releases the interpreter lock while decoding), with a progress bar.

    Returns:
        For each path, in order, why it cannot be read, or "".
    """
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        # disable=None: no bar where there is no terminal.
        bar = tqdm(pool.map(unreadable, paths), total=len(paths), desc="checking images", leave=False, disable=None)
        return list(bar)


def check_images(table: pd.DataFrame) -> None:
    """Makes sure that each image of a table decodes to its last pixel.

    Raises:
        UserError: names up to five of the files that do not, with the reason.
    """
    root = Path(table.attrs["root"])
    reasons = find_unreadable([root / name for name in table["image"]])
    bad = [(name, reason) for name, reason in zip(table["image"], reasons, strict=True) if reason]
    if bad:
        shown = "\n".join(f"  {name}: {reason}" for name, reason in bad[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(f"{len(bad)} of {len(table)} images in {root} cannot be decoded:\n{shown}{more}\n"
                        "Replace these files or remove their rows from the table.")
    print(f"  every one of the {len(table)} images decodes", flush=True)
