"""Data sets that busfast can generate: name -> function(folder, progress=...) that writes one."""

from pathlib import Path

from tqdm import tqdm

from busfast.data.phantom import write_phantom

GENERATORS = {"phantom": write_phantom}


def generate(source: str, folder: str | Path) -> None:
    """Generates a data set, with a progress bar, unless its table exists or `source` is ""."""
    if source and not (Path(folder) / "table.csv").is_file():
        print(f"data: making the {source} in {folder}")
        with tqdm(desc=f"making the {source}", leave=False, disable=None) as bar:  # None: only on a terminal
            GENERATORS[source](folder, progress=lambda done, total: bar.update())
