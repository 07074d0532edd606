"""Takes the pictures of docs/gallery/ anew: what busfast shows of the phantom, in a terminal and in a browser.

python -m docs.make_screenshots (`make screenshots` does it) runs the commands of docs/gallery.md in a temporary folder.
It needs playwright, Gradio, the system's Chromium, and `script`, which gives a command a terminal.
"""

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from busfast.imports import is_installed

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COLUMNS = 80  # of the terminal
WIDTH = 1050  # of the browser, px
LARGEST = 1800  # width of a picture, px
RUN = "phantom/stratified"
BUNDLE = f"models/{RUN}/bundle"
IMAGE = "data/phantom/images/alpha_0065_3.png"  # malignant, of the test part
COMMANDS = ("train --split=stratified", f"evaluate --run={RUN}", f"explain --run={RUN}", f"report --run={RUN}",
            f"export --run={RUN}", f"predict {IMAGE} --model={BUNDLE}", "audit --data=data/copies")
TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><style>
body {{ margin: 0; background: #14181f }}
pre {{ display: inline-block; margin: 0; padding: 16px; width: {columns}ch; color: #dfe3ea; white-space: pre-wrap;
  word-break: break-all; font: 14px/1.4 "DejaVu Sans Mono", monospace }}
b {{ color: #fff }}
</style><pre>{text}</pre>"""


def main() -> str | None:
    """Takes all pictures; returns what has to be installed, if anything is missing."""
    missing = [how for how, there in (
        ('pip install -e ".[browser,demo]"', is_installed("playwright") and is_installed("gradio")),
        ("apt install chromium", CHROMIUM), ("apt install bsdutils", shutil.which("script"))) if not there]
    if missing:
        return f"Screenshots need what is not installed here: {'; '.join(missing)}"
    from playwright.sync_api import sync_playwright

    GALLERY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="busfast-") as folder, sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shoot_commands(browser, Path(folder))
        shoot_pages(browser, Path(folder))
    return None


def shoot_commands(browser: Any, folder: Path) -> None:
    """Runs the main job in a folder, and takes pictures of the terminal."""
    for words in COMMANDS:
        if "data/copies" in words:
            add_copies(folder / "data" / "phantom", folder / "data" / "copies")
        said, verb = run(folder, words), words.split()[0]
        if verb in ("train", "evaluate", "predict"):
            page = browser.new_page()
            page.set_content(TERMINAL.format(columns=COLUMNS, text=as_html(said)))
            save(page.locator("pre").screenshot(), verb)


def shoot_pages(browser: Any, folder: Path) -> None:
    """Takes pictures of the pages that a run and an audit wrote into a folder, and of the demo of its bundle."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
    for name, path, height in (("report", f"results/{RUN}/report.html", 1000),
                               ("audit", "data/copies/audit/audit.html", 2000)):
        page.goto((folder / path).as_uri())
        save(page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height}), name)
    save((folder / "results" / RUN / "results.png").read_bytes(), "results")
    with subprocess.Popen([sys.executable, "-m", "busfast", "demo", f"--model={BUNDLE}", "--port=0"], cwd=folder,
                          env=environment(), stdout=subprocess.PIPE, text=True) as demo:
        try:
            page.goto(next(match[1] for line in demo.stdout if (match := re.match(r"open (\S+)", line))))
            page.set_input_files("#drop input[type=file]", folder / IMAGE)
            page.locator(".bf-answer img").last.wait_for()
            page.wait_for_timeout(1000)  # until it has faded in
            save(page.screenshot(), "demo")
        finally:
            demo.terminate()


def environment() -> dict[str, str]:
    """Returns the variables of a command: `python` is this one, and busfast the one beside this file."""
    return os.environ | {"PYTHONPATH": str(ROOT), "BUSFAST_CACHE": "cache", "TERM": "xterm",
                         "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(folder: Path, words: str) -> str:
    """Runs a verb in a terminal; returns the command and all that it wrote there."""
    command = f"python -m busfast {words}"
    print(command, flush=True)
    done = subprocess.run(["script", "-qec", f"stty rows 40 cols {COLUMNS}; {command}", "/dev/null"], cwd=folder,
                          env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said = done.stdout.decode()
    if done.returncode:
        sys.exit(said)
    return f"\033[1m$ {command}\033[0m\n{said}"


def as_html(said: str) -> str:
    """Returns what is left on a terminal: of each line the part after the last return, with its bold face."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in said.rstrip().split("\n")]
    text = html.escape("\n".join(lines)).replace("\033[1m", "<b>").replace("\033[0m", "</b>")
    return re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", text)


def add_copies(phantom: Path, folder: Path) -> None:
    """Makes a data folder of the phantom's images, two copies, one of them cropped and with another label, and a file
    that is cut off."""
    shutil.copytree(phantom, folder)
    table = pd.read_csv(folder / "table.csv")
    copies = table[table["label"] == "malignant"].drop_duplicates("patient").head(2)
    copies = copies.assign(image=["images/copy_1.png", "images/copy_2.png"], patient=["copy_1", "copy_2"],
                           label=["malignant", "benign"], mask="")
    for row, name, left in zip(copies.index, copies["image"], (0, 8), strict=True):
        with Image.open(folder / table["image"][row]) as image:
            image.crop((left, 0, *image.size)).save(folder / name)
    cut = folder / table["image"].iloc[-1]
    cut.write_bytes(cut.read_bytes()[:2000])
    pd.concat([table, copies]).to_csv(folder / "table.csv", index=False)


def save(picture: bytes, name: str) -> None:
    """Writes a picture to the gallery, in a palette of 256 colors."""
    with Image.open(BytesIO(picture)) as image:
        image = image.convert("RGB")
        image.thumbnail((LARGEST, image.height))
        image.quantize(method=Image.Quantize.MAXCOVERAGE).save(GALLERY / f"{name}.png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
