"""The demo without a browser and without Gradio: what is refused, what is deleted, what is said.

Covers busfast/demo/__init__.py, busfast/demo/answer.py, busfast/demo/guard.py and busfast/demo/uploads.py.
"""

import asyncio
import io
import os
import re
import socket
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH, SIZE
from PIL import Image, ImageFile

from busfast import demo
from busfast.cli import main
from busfast.demo.answer import Answerer, clean_name, overlay_heatmap
from busfast.demo.guard import ASK, UPLOAD, Guard, host_names, is_own_host
from busfast.demo.page import reply
from busfast.demo.uploads import private_folder, read_upload, remove_old, take_upload
from busfast.errors import UserError
from busfast.inference.bundle import describe_input, read_bundle, write_bundle
from busfast.inference.engines import WithFeatures
from busfast.inference.gradcam import Explainer, find_layer, find_places, make_noise_images
from busfast.inference.outlier import Outlier
from busfast.inference.predictor import load_predictor
from busfast.pipelines.image import ImagePipeline
from busfast.results.explain import COVER, EVIDENCE

MB = 1_000_000


def png(width, height):
    """A PNG of that size by its header, with next to nothing in it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


GRAY = Image.fromarray(np.arange(150, dtype=np.uint8).reshape(10, 15))


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (bytes(MB + 1), "has 1.0 MB, but at most 1 MB are allowed"),
    (b"no image", "none of JPEG, PNG, BMP, TIFF"),
    (png(30_000, 30_000), "far too many pixels: at most 89 million"), (png(10_000, 10_000), "10000 x 10000 pixels"),
    (encoded(GRAY, "gif"), "none of JPEG"), (encoded(GRAY.convert("RGB"), "eps"), "none of JPEG"),
    (encoded(GRAY, "png")[:-30], "cannot be read (")])
def test_what_is_no_image_for_the_demo_is_refused_in_plain_words(data, message, recwarn):
    with pytest.raises(UserError, match=re.escape(message)):
        read_upload(data, MB)
    assert not recwarn.list


def test_a_jpeg_that_lacks_only_its_end_marker_is_read_as_elsewhere():
    whole = encoded(GRAY, "jpeg")
    assert read_upload(whole[:-2], MB) == read_upload(whole, MB)


@pytest.mark.parametrize("data", [png(30_000, 30_000), png(10_000, 10_000)])
def test_a_decompression_bomb_is_refused_before_anything_of_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match="it was not decoded"):
        read_upload(data, MB)


def test_the_folder_of_uploads_is_private_and_goes_at_the_end():
    with private_folder(MB) as folder:
        assert os.stat(folder).st_mode & 0o777 == 0o700 and not list(folder.iterdir())
        (folder / "left").write_bytes(b"x")
    assert not folder.exists()


def test_an_upload_is_deleted_when_it_is_taken_and_no_other_file_can_be(tmp_path):
    folder, other = tmp_path / "uploads", tmp_path / "other.png"
    (folder / "hash").mkdir(parents=True)
    other.write_bytes(b"not yours")
    upload = folder / "hash" / "a.png"
    upload.write_bytes(b"data")
    assert take_upload({"path": str(upload)}, folder) == b"data" and not list(folder.iterdir())
    for path in (upload, other, folder / ".." / "other.png", folder, None):
        with pytest.raises(UserError, match="The upload is gone"):
            take_upload({"path": path and str(path)}, folder)
    (folder / "link").symlink_to(other)
    with pytest.raises(UserError, match="The upload is gone"):
        take_upload({"path": str(folder / "link")}, folder)
    assert other.read_bytes() == b"not yours"


def test_an_upload_that_nobody_asks_for_is_swept_away_and_a_fresh_one_stays(tmp_path):
    for name, age in (("old", 500), ("new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"data")
        os.utime(tmp_path / name, (os.stat(tmp_path).st_mtime - age,) * 2)
    remove_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def guard(tmp_path, app=None, host="127.0.0.1"):
    return Guard(app, host, tmp_path, MB, "own()")


HOME = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(("method", "path", "headers", "status"), [
    ("GET", "/", {}, None), ("HEAD", "/", {}, None), ("GET", "/assets/a.js", {"host": "localhost:9000"}, None),
    ("GET", "/", {"sec-fetch-site": "cross-site"}, None),  # a link on another page
    ("POST", UPLOAD, {"content-length": str(MB), "origin": "http://127.0.0.1:7860"}, None),
    ("GET", "/", {"host": "evil.example:7860"}, 421), ("GET", "/", {"host": ""}, 421),
    ("GET", "/", {"host": "192.0.2.1:7860"}, 421), ("GET", "/", {"host": "["}, 421),
    ("GET", "/config", {"origin": "http://evil.example"}, 403), ("POST", UPLOAD, {"origin": "null"}, 403),
    ("POST", UPLOAD, {"origin": "http://localhost:3000"}, 403),  # another program of this machine
    ("POST", UPLOAD, {"sec-fetch-site": "same-site", "content-length": "9"}, 403),
    ("POST", UPLOAD, {}, 411), ("POST", UPLOAD, {"content-length": "x"}, 411),
    ("POST", UPLOAD, {"content-length": str(2 * MB)}, 413),
    ("POST", "/gradio_api/queue/join", {"content-length": str(MB)}, 413),
    ("DELETE", "/", {}, 405), ("OPTIONS", UPLOAD, {}, 405),
    ("GET", "/gradio_api/file=/etc/passwd", {}, 404), ("GET", "/gradio_api/proxy=http://evil.example/", {}, 404),
    ("GET", "/gradio_api/info", {}, 404), ("GET", "/docs", {}, 404), ("GET", "/monitoring", {}, 404),
    ("POST", "/gradio_api/run/predict", {"content-length": "2"}, 404), ("GET", "/gradio_api/runs", {}, 404)])
def test_only_what_the_page_needs_is_let_through_and_only_from_the_page(tmp_path, method, path, headers, status):
    refused = guard(tmp_path).refuse(method, path, HOME | headers)
    assert (refused and refused[0]) == status


def test_a_demo_that_is_open_to_the_network_knows_its_own_names_alone():
    names = host_names("0.0.0.0")
    assert is_own_host(f"{socket.gethostname()}:7860", names) and is_own_host("192.0.2.1:7860", names)
    assert is_own_host("localhost", names) and not is_own_host("evil.example", names)


def ask(app, path="/", method="GET", headers=(), body=(b"",)):
    """Sends a request through an ASGI application; returns status, headers and body."""
    sent = []

    async def send(message):
        sent.append(message)

    parts = list(body)

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    scope = {"type": "http", "method": method, "path": path,
             "headers": [(b"host", b"127.0.0.1:7860"), (b"accept-encoding", b"br"), *headers]}
    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]))


def test_the_page_names_no_other_site_and_may_load_nothing_from_one(tmp_path):
    body = (b'<html><head><meta property="og:image"\n content="https://x.example/a.jpg" /><meta charset="utf-8">'
            b'<meta name="twitter:image" content="https://x.example"/><script>a</script></head>'
            b'<script type="module" src="./a.js"></script></html>')

    async def app(scope, receive, send):
        assert b"accept-encoding" not in dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"content-type", b"text/html"), (b"content-length", b"1"), (b"access-control-allow-origin", b"*")]})
        await send({"type": "http.response.body", "body": body[:40], "more_body": True})
        await send({"type": "http.response.body", "body": body[40:]})

    status, headers, page = ask(guard(tmp_path, app))
    assert status == 200 and b"x.example" not in page and b'<meta charset="utf-8">' in page and b"own()" in page
    assert int(headers["content-length"]) == len(page) and "access-control-allow-origin" not in headers
    policy = headers["content-security-policy"]
    nonce = re.search("'nonce-([^']+)'", policy)[1]
    assert page.count(b"<script") == page.count(f'<script nonce="{nonce}"'.encode()) == 3
    assert policy.startswith("default-src 'none'") and "http" not in policy and "unsafe-eval" not in policy
    assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(("data", "status"), [
    ('[{"path": "FOLDER/hash/a.png"}]', 200), ("[null]", 200), ("[" * 30_000, 400), ("nonsense", 400),
    ('[{"path": "/etc/passwd"}]', 400), ('[{"path": "FOLDER/../b.png"}]', 400), ('[{"path": "https://x/a.png"}]', 400),
    ('[{"value": [{"path": ["FOLDER/a.png"]}]}]', 400), ('[{"path": "FOLDER/a\\u0000"}]', 400)])
def test_a_request_can_name_no_other_file_and_no_address(tmp_path, data, status):
    body = f'{{"data": {data.replace("FOLDER", str(tmp_path))}, "fn_index": 0}}'.encode()
    seen = []

    async def app(scope, receive, send):
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    length = (b"content-length", str(len(body)).encode())
    assert ask(guard(tmp_path, app), ASK, "POST", [length], [body[:9], body[9:]])[0] == status
    assert seen == ([body] if status == 200 else [])


def test_uploads_are_refused_while_too_many_wait(tmp_path):
    (tmp_path / "waiting").write_bytes(bytes(5 * MB))
    status, _, body = ask(guard(tmp_path), UPLOAD, "POST", [(b"content-length", b"10")])
    assert status == 503 and b"Try again" in body


@pytest.fixture
def make_answerer(tmp_path):
    """Makes an Answerer of a bundle with random weights."""
    def make(threshold=1e9, **changed):
        folder, image = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}", ImagePipeline(size=SIZE)
        folder.mkdir()
        model = timm.create_model(ARCH, num_classes=2)
        d = WithFeatures(model.eval(), 3)(torch.zeros(1, 3, SIZE, SIZE))[1].shape[1]
        one = np.ones(1, np.float32)
        outlier = threshold and Outlier(np.zeros(d, np.float32), np.eye(1, d, dtype=np.float32), one, one,
                                        one * threshold)
        point = {"class": "malignant", "target": 0.9, "threshold": 0.25,
                 "test": {"sensitivity": [0.9, 0.8, 0.95], "specificity": [0.5, None, None], "ppv": [None] * 3}}
        facts = {"classes": ["benign", "malignant"], "architecture": ARCH, "input": describe_input(image),
                 "temperature": 1.5, "operating_points": [point], "outlier": None,
                 "metrics": {"images": 7, "groups": 5, "scores": {"macro_auc": [0.7, 0.6, 0.8]}},
                 "run": {"name": "phantom/stratified", "phantom": True}} | changed
        write_bundle(folder, model, facts, outlier or None)
        return Answerer(read_bundle(folder), load_predictor(folder, device="cpu"), MB)
    return make


def test_an_answer_gives_the_predictors_probabilities_the_decision_and_what_it_reached(make_answerer, odd_images):
    answerer = make_answerer()
    names = ["gray.jpg", "rotated.jpg", "cmyk.jpg", "12_bit.tif", "rgba.png", "rgb.bmp", "float.tif"]
    rows = [row for some in answerer.predictor.rows(names, [odd_images[name] for name in names], bs=2) for row in some]
    for name, row in zip(names, rows, strict=True):
        said = answerer.answer(name, odd_images[name].read_bytes())
        shares = re.findall(r"<dt>(\w+)</dt><dd>([\d.]+)</dd>", said)
        assert [one for one, _ in shares] == ["benign", "malignant"]
        assert [float(value) for _, value in shares] == pytest.approx([float(value) for value in row[3:5]], abs=6e-4)
        assert ("So the decision differs from the most" in said) == ((row[2] == "malignant") != (row[5] == "malignant"))
        assert f"Most probable: {row[2]}" in said and f"Decision: {row[5]}</h3>" in said
        assert "Grad-CAM for malignant, the class that is decided about" in said  # also where benign is more probable
        assert said.count('src="data:image/png;base64,') == 2 and "Cannot tell" not in said
    for text in ("threshold of 0.250", "7 images of 5 patients", "0.900 (0.800 to 0.950)", "0.500 (too few patients)",
                 "not defined", "unknown", "Calibrated", "finds nothing unlike the training images"):
        assert text in said
    assert "PHANTOM" in answerer.describe() and "0.700 (0.600 to 0.800)" in answerer.describe()
    assert "better than chance" not in answerer.describe()


def test_doubts_are_said(make_answerer, monkeypatch):
    data = encoded(GRAY, "png")
    said = make_answerer(threshold=1e-6).answer("a", data)
    assert "Cannot tell: this picture is unlike the training images" in said and "Decision: cannot tell</h3>" in said
    assert "its outlier score" in said.casefold() and "99% of the validation images have at most 1" in said
    assert not any(text in said for text in ("Most probable", "Decision: malignant", "Decision: not", "threshold"))
    assert "decided about" not in said
    unsure = make_answerer(metrics={"images": 7, "groups": 5, "scores": {"macro_auc": [0.6, 0.4, 0.8]}})
    assert "not shown to be better than chance" in unsure.describe()
    monkeypatch.setattr(unsure.explainer, "explain", lambda pixels, targets: np.zeros((1, SIZE, SIZE)))
    said = unsure.answer("a", data)
    assert "nothing in the image counted for it" in said and "bf-scale" not in said  # a scale of no color
    bare = make_answerer(threshold=None, temperature=None, operating_points=[], metrics=None, run=None)
    said = bare.answer("a", data)
    assert "The bundle has no outlier score" in said and "These probabilities are not calibrated" in said
    assert "Decision" not in said and "<h1>busfast demo</h1>" in bare.describe()
    assert re.search(r"Grad-CAM for (benign|malignant):", said)[1] == re.search(r"Most probable: (\w+)", said)[1]


def test_a_map_has_the_colors_of_explain_and_leaves_the_rest_of_the_image_as_it_is():
    picture, heatmap = np.full((8, 8, 1), 100, np.uint8), np.zeros((8, 8))
    heatmap[0, 0] = 1
    shown = overlay_heatmap(picture, heatmap)
    color = np.array([int(EVIDENCE[place:place + 2], 16) for place in (1, 3, 5)])
    assert shown[0, 0].tolist() == np.round((1 - COVER) * 100 + COVER * color).tolist() and (shown[1:] == 100).all()
    style = (Path(demo.__file__).parent / "templates" / "page.css").read_text()
    assert f"(90deg, {EVIDENCE}00, {EVIDENCE}{round(COVER * 255):02x})" in style  # the legend


def test_names_are_text_wherever_they_come_from(make_answerer):
    evil = "<img src=x onerror=alert(1)>"
    answerer = make_answerer(run={"name": evil, "leaks": evil})
    page = answerer.answer(evil, encoded(GRAY, "png")) + answerer.describe() + answerer.refuse(evil, evil)
    assert "<img src=x" not in page and page.count("&lt;img src=x") == 5
    assert clean_name("a\u202egnp.exe\n") == "a?gnp.exe?" and clean_name("") == "The image"
    assert len(clean_name("x" * 500)) < 80


def test_whatever_goes_wrong_with_an_image_is_said_without_its_details(tmp_path, capsys):
    def fail(name, data):
        raise MemoryError("secret.png")

    answerer = SimpleNamespace(answer=fail, refuse=lambda name, reason: reason)
    (tmp_path / "secret.png").write_bytes(b"x")
    said = reply(answerer, tmp_path, {"path": str(tmp_path / "secret.png"), "orig_name": "secret.png"})
    assert "something went wrong" in said and not list(tmp_path.iterdir())
    assert "secret" not in said + capsys.readouterr().out and reply(answerer, tmp_path, None) is None


def test_where_cells_look_does_not_depend_on_images():
    model, image = timm.create_model(ARCH, num_classes=2).eval(), ImagePipeline(size=SIZE)
    explainer = Explainer(model, ARCH, image, "cpu", make_noise_images(image))
    x = explainer._collate(list(np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 1)).astype(np.uint8)))
    assert explainer.members[0][2] == find_places(model, find_layer(model, ARCH, x), x)
    assert np.array_equal(make_noise_images(image), make_noise_images(image))


@pytest.fixture
def served(monkeypatch, make_answerer):
    """Serves nothing, but notes what would be; needs no Gradio."""
    seen = {}
    monkeypatch.setattr("busfast.imports.find_spec", lambda name: True)
    monkeypatch.setattr(demo, "make_app", lambda answerer, folder, port: seen.update(folder=folder, port=port))
    server = SimpleNamespace(run=lambda sockets: seen.update(address=sockets[0].getsockname()))
    uvicorn = SimpleNamespace(Config=lambda app, **how: how, Server=lambda how: server)
    monkeypatch.setitem(sys.modules, "uvicorn", uvicorn)
    folder = make_answerer().bundle.folder
    return seen, lambda *words: main(["demo", f"--model={folder}", "--port=0", "--device=cpu", *words])


def test_it_listens_on_this_machine_alone_unless_asked_and_then_warns(served, capsys):
    seen, call = served
    assert call() == 0
    assert seen["address"] == ("127.0.0.1", seen["port"]) and not seen["folder"].exists()
    out = capsys.readouterr().out
    assert f"open http://127.0.0.1:{seen['port']}/" in out and "WARNING" not in out
    assert call("--host=0.0.0.0") == 0
    out = capsys.readouterr().out
    assert seen["address"][0] == "0.0.0.0" and "WARNING" in out and "ANYBODY IN THE NETWORK CAN USE IT" in out


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: .*in use"):
            demo.listen("127.0.0.1", port)


def test_a_missing_gradio_is_named_with_the_command_that_brings_it(make_answerer, monkeypatch, capsys):
    monkeypatch.setattr("busfast.imports.find_spec", lambda name: None)
    monkeypatch.setattr("busfast.inference.bundle.read_bundle", lambda _: pytest.fail("torch would be imported"))
    assert main(["demo", f"--model={make_answerer().bundle.folder}"]) == 2
    assert "pip install 'gradio>=6.31'" in capsys.readouterr().err
