"""Executes the notebooks, each in an empty folder. `python tests/execute_notebooks.py` does it in place.

So what is committed was run from the first cell to the last, with the parameters that stand in it; and nothing that
somebody has in notebooks/runs/ is touched.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def execute(path: Path, folder: Path, kernel: KernelManager | None = None, **parameters) -> nbformat.NotebookNode:
    """Runs a notebook with this very Python.

    Args:
        path: the notebook, which is not changed.
        folder: where its kernel starts.
        kernel: one that runs already, and forgets all names first; None: a new one.
        parameters: what its cell with the tag `parameters` is to say instead.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        cell, = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    if kernel:
        forget = f"import os\nos.chdir({str(folder)!r})\n%reset -f"  # which begins the history of folders here
        notebook.cells.insert(0, nbformat.v4.new_code_cell(forget))
    client = NotebookClient(notebook, km=kernel, timeout=600, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(folder)}})
    return client.execute()


def tidy(cell: nbformat.NotebookNode, folder: str) -> None:
    """Takes out of a cell's outputs what fastai's bars leave behind when they are done, and the temporary folder."""
    kept = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            output.text = output.text.replace(f"{folder}/", "")
        data = output.get("data", {})
        if data.get("text/html") in ("", "<div></div>"):
            continue
        if "text/html" in data:
            data.pop("text/markdown", None)
        kept.append(output)
    if "outputs" in cell:
        cell.outputs = kept


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the packaged weights, on every machine
    for path in NOTEBOOKS:
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"executing {path.relative_to(ROOT)}", flush=True)
            notebook = execute(path, Path(folder))
            for cell in notebook.cells:
                tidy(cell, folder)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
