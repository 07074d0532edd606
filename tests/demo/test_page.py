"""The demo in a real browser, where Gradio and one are there: what it shows, refuses, asks for and leaves behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pipeline
from PIL import Image

from busfast.cli import main
from busfast.inference.predictor import load_predictor
from demo.test_demo import MB, png

pytest.importorskip("gradio")

# Every connection, name that is looked up and file that is opened for writing, as Python itself reports it.
SPY = """
import os, sys
log = open(sys.argv[1], "w", buffering=1)
def spy(event, args):
    if event in ("socket.connect", "socket.bind"):
        log.write(f"{event} {args[1]!r}\\n")
    elif event == "socket.getaddrinfo":
        log.write(f"{event} {args[0]!r}\\n")
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        log.write(f"write {args[0]!r}\\n")
sys.addaudithook(spy)
from busfast.cli import main
sys.exit(main(sys.argv[2:]))
"""
DROP = "#drop input[type=file]"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, phantom_folder):
    """The bundle of an evaluated run."""
    folder = tmp_path_factory.mktemp("work")
    write_pipeline(folder, phantom_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--split=stratified", "--then=evaluate"]) == 0
        assert main(["export", "--run=phantom/stratified"]) == 0
    return folder / "models" / "phantom" / "stratified" / "bundle"


class Served:
    """A demo that runs in a process of its own."""

    def __init__(self, bundle, log):
        words = [str(log), "demo", f"--model={bundle}", "--port=0", "--max_mb=1", "--device=cpu"]
        self.process = subprocess.Popen([sys.executable, "-c", SPY, *words], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2],
                                        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
                                        # Where the tests run in the background, a shell may have had SIGINT ignored.
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("open "):
                break
        said = "".join(said)
        assert "open http://127.0.0.1:" in said, said
        self.url, self.log = re.search(r"open (\S+)", said)[1], log
        self.folder = Path(re.search(r"images are in (\S+) ", said)[1])
        self.started = len(log.read_text())

    def left(self):
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    served = Served(bundle, tmp_path_factory.mktemp("log") / "audit.txt")
    yield served
    served.process.terminate()
    served.process.wait(30)


@pytest.fixture
def page(served, browser):
    """The open page; what the browser said and what it asked for are in `said` and `asked`."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.said, page.asked = [], []
    page.on("console", lambda message: message.type == "error" and page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(served.url)
    page.wait_for_selector(DROP, state="attached")
    yield page
    page.close()


def drop(page, path):
    """Chooses a file; returns the page's answer to it."""
    page.set_input_files(DROP, path)
    found = page.locator("#answer:not(.bf-old) [class*=bf-turn-], #refused .bf-box").filter(has_text=Path(path).name)
    found.wait_for()
    return found


def test_an_image_is_answered_with_what_predict_says_of_it(page, served, bundle, phantom_folder, odd_images):
    paths = [sorted((phantom_folder / "images").iterdir())[0], odd_images["12_bit.tif"], odd_images["rotated.jpg"],
             odd_images["rgb.bmp"]]
    predictor = load_predictor(bundle, device="cpu")
    rows = [row for some in predictor.rows(paths, paths, bs=4) for row in some]
    for path, row in zip(paths, rows, strict=True):
        said = drop(page, path)
        values = [float(text) for text in said.locator(".bf-shares dd:not(.bf-bar)").all_inner_texts()]
        assert said.locator("dt").all_inner_texts() == list(predictor.classes)
        assert values == pytest.approx([float(value) for value in row[3:6]], abs=6e-4)
        unlike = float(row[7]) > 1
        assert said.get_by_text(f"Most probable: {row[2]}").is_visible() != unlike
        assert said.get_by_text(f"Decision: {'cannot tell' if unlike else row[6]}", exact=True).is_visible()
        assert (f"threshold of {predictor.operating_points[0]['threshold']:.3f}" in said.inner_text()) != unlike
        assert said.locator("table tr").count() == (0 if unlike else 4) and said.locator("img").count() == 2
        assert page.evaluate("[...document.images].every(one => one.naturalWidth == 512 && /^data:/.test(one.src))")
        assert served.left() == []
    assert page.said == [] and all(url.startswith((served.url, "data:")) for url in page.asked)


def test_a_picture_unlike_the_training_images_is_called_so(page, phantom_folder, tmp_path):
    y, x = np.mgrid[0:300, 0:400]
    stripes = np.stack([(x // 8 % 2) * 255, (y // 8 % 2) * 255, (x + y) % 256], -1).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    warning = "Cannot tell: this picture is unlike the training images"
    assert warning in drop(page, tmp_path / "stripes.png").inner_text()
    assert warning in page.locator("#spoken").text_content()  # for screen readers
    assert warning not in drop(page, sorted((phantom_folder / "images").iterdir())[0]).inner_text()
    assert warning not in page.locator("#spoken").text_content()


def test_each_bad_file_gives_a_plain_error_and_the_next_image_is_answered(page, served, phantom_folder, tmp_path):
    good = sorted((phantom_folder / "images").iterdir())[0]
    for name, data, message in [
            ("<img src=x onerror=alert(1)>.png", b"no image", "is not a readable image"),
            ("cut.png", good.read_bytes()[:-300], "cannot be read (OSError"),
            ("bomb.png", png(30_000, 30_000), "has far too many pixels"),
            ("huge.png", bytes(MB + 1), "has 1.0 MB, but at most 1 MB are allowed"), ("empty.png", b"", "is empty")]:
        (tmp_path / name).write_bytes(data)
        assert message in drop(page, tmp_path / name).inner_text()
        assert page.locator(".bf-answer").count() == 0 or not page.locator(".bf-answer").is_visible()  # the last one's
        assert drop(page, good).locator("img").count() == 2
        assert served.left() == []
    assert page.said == []


def test_two_pages_at_once_each_get_their_own_answer(page, served, phantom_folder):
    other = page.context.browser.new_page()
    other.goto(served.url)
    other.wait_for_selector(DROP, state="attached")
    images = sorted((phantom_folder / "images").iterdir())[:6]
    for image, one in zip(images, (page, other) * 3, strict=True):
        one.set_input_files(DROP, image)
        if one is other:  # both are under way
            for name, of in ((image.name, other), (images[images.index(image) - 1].name, page)):
                of.locator("#answer:not(.bf-old) h2").filter(has_text=name).wait_for()
    assert served.left() == [] and page.said == []


def test_an_upload_that_the_page_does_not_refuse_is_refused_by_the_server(page, served):
    sent = page.evaluate("""async () => {
        const form = new FormData();
        form.append("files", new Blob([new Uint8Array(1100000)]), "huge.png");
        const answer = await fetch("/gradio_api/upload", { method: "POST", body: form });
        return [answer.status, await answer.text()];
    }""")
    assert sent == [413, "The file is larger than 1 MB, the largest size allowed."]
    assert served.left() == []


@pytest.mark.parametrize("target", ["IMAGE", "http://127.0.0.1:PORT/", "https://example.org/a.png"])
def test_a_forged_request_gets_no_file_of_this_machine_and_makes_it_fetch_nothing(page, served, phantom_folder, target):
    target = target.replace("IMAGE", str(sorted((phantom_folder / "images").iterdir())[0]))
    before = len(served.log.read_text())
    status = page.evaluate("""async path => {
        const file = { path, url: path, orig_name: "a.png", meta: { _type: "gradio.FileData" } };
        const body = JSON.stringify({ data: [file], fn_index: 0, session_hash: "forged" });
        const headers = { "Content-Type": "application/json" };
        return (await fetch("/gradio_api/queue/join", { method: "POST", headers, body })).status;
    }""", target)
    assert status == 400 and served.log.read_text()[before:] == "" and served.left() == []


def test_it_fits_it_can_be_used_by_keyboard_and_screen_readers_can_read_it(page, phantom_folder):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(40):  # the page becomes alive a moment after it is there
        if not page.evaluate("document.activeElement.closest('#drop') !== null"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_timeout(250)
        if choosers:
            break
    choosers[0].set_files(sorted((phantom_folder / "images").iterdir())[0])
    page.wait_for_selector(".bf-answer")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.reload()
        page.wait_for_selector(DROP, state="attached")
        drop(page, sorted((phantom_folder / "images").iterdir())[0])
        for width in (400, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(500)  # colors fade
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.mouse.wheel(0, 5000)
            page.wait_for_timeout(200)
            caution = page.locator("#caution")
            assert "Research only, not a medical device." in caution.inner_text()
            assert 0 <= caution.bounding_box()["y"] < 100  # wherever the page is scrolled to
            found = axe.Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def test_the_server_is_bound_to_this_machine_asks_no_other_and_writes_nowhere_else(page, served, phantom_folder):
    drop(page, sorted((phantom_folder / "images").iterdir())[0])
    whole = served.log.read_text()
    bound = re.findall(r"socket\.bind \('([^']*)'", whole)
    assert "127.0.0.1" in bound and set(bound) <= {"127.0.0.1", "::1"}  # urllib3 tries whether there is a ::1
    assert re.findall(r"socket\.(?:connect|getaddrinfo) (?!.*127\.0\.0\.1).*", whole) == []
    written = re.findall(r"write '?([^'\n]*)", whole[served.started:])
    assert any(path.startswith(str(served.folder)) for path in written)  # the upload itself: the spy sees it
    assert [path for path in written if not path.startswith((str(served.folder), "/dev/null"))] == []


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_nothing_is_left_when_it_is_ended(bundle, browser, phantom_folder, tmp_path, sign, status):
    served = Served(bundle, tmp_path / "audit.txt")
    page = browser.new_page()
    page.goto(served.url)
    page.wait_for_selector(DROP, state="attached")
    drop(page, sorted((phantom_folder / "images").iterdir())[0])
    assert served.folder.is_dir() and served.folder.stat().st_mode & 0o777 == 0o700
    served.process.send_signal(sign)  # with the page still open
    out, _ = served.process.communicate(timeout=30)
    assert served.process.returncode == status
    assert not served.folder.exists() and not out.replace("busfast: interrupted\n", "")
