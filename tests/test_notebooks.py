"""The notebooks run from the first cell to the last, and their outputs tell nothing of the machine that made them."""

import re
import shutil

import nbformat
import pytest
from conftest import ARCH, SIZE
from execute_notebooks import NOTEBOOKS, ROOT, execute
from jupyter_client import KernelManager

SMALL = {"ARCH": ARCH, "SIZE": SIZE, "EPOCHS": 1}
# What each one promises, below runs/NAME, and where it finds its phantom. own_data, which makes the most files, is run
# twice: it must go on with what is there.
PROMISED = {
    "quickstart": ("data/phantom", {}, [
        "results/quickstart/stratified/report.html", "results/quickstart/stratified/metrics.csv",
        "models/quickstart/stratified/best.pth", "models/quickstart/stratified/bundle/weights.safetensors"]),
    "own_data": ("phantom", {"IMAGES": 90}, [
        "clinic/list.csv", "data/about-clinic/audit/audit.html", "data/about-clinic-clean/left_out.csv",
        "models/own_data/stratified/best.pth", "models/own_data/stratified-2/best.pth"]),
    "fastai": ("data/phantom", {"IMAGES": 90}, ["learner.pkl"]),
    "center_shift": ("data/phantom", {}, [
        f"results/shift/{name}/metrics.csv" for name in (
            "stratified", *(f"leave_one_center_out-{center}" for center in ("alpha", "beta", "gamma")))]
        + ["results/compare.png", "results/shift/stratified/probes.csv"]),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """This Python with this copy of busfast, whatever kernels the user has registered. It is started once: importing
    fastai takes as long as a notebook."""
    kernel = KernelManager(kernel_name="python3", client_class="jupyter_client.asynchronous.AsyncKernelClient")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("JUPYTER_DATA_DIR", str(tmp_path_factory.mktemp("jupyter")))
        patch.delenv("JUPYTER_PATH", raising=False)
        kernel.start_kernel()
        yield kernel
        kernel.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_runs_and_writes_what_it_promises(name, tmp_path, phantom_folder, kernel):
    phantom, more, promised = PROMISED[name]
    shutil.copytree(phantom_folder, tmp_path / "runs" / name / phantom)
    for _ in range(2 if name == "own_data" else 1):
        done = execute(ROOT / "notebooks" / f"{name}.ipynb", tmp_path, kernel, **SMALL, **more)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = [output.get("data", {}) for output in outputs]
    assert any("image/jpeg" in data for data in shown)
    assert any('class="fastprogress"><thead><tr><th>epoch' in data.get("text/html", "") for data in shown)
    assert [file for file in promised if not (tmp_path / "runs" / name / file).is_file()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # nothing beside it


def test_every_notebook_is_tried():
    assert [path.stem for path in NOTEBOOKS] == sorted(PROMISED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_run_as_a_whole_and_tells_nothing_of_a_machine(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    text = " ".join(str(part) for output in outputs for kind, part in (output.get("data") or output).items()
                    if not kind.startswith("image/"))
    assert re.findall(r"(?:/tmp|/root|/work|/home|/Users|/var|[A-Z]:\\)\S*", text) == []
    images = [part for output in outputs for kind, part in output.get("data", {}).items() if kind.startswith("image/")]
    assert images and sum(map(len, images)) < 250_000  # in base64, a third more than the pictures
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_first_that_it_is_for_research(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and "not a medical device" in first.source
