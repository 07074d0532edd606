"""Whatever bytes and values the readers are given: a UserError (or the error they promise), and nothing else.

    pytest --hypothesis-profile=search tests/security/test_fuzz.py     # other examples each time, for some minutes
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ARCH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busfast.csvfile import read_rows
from busfast.data.external_splits import read_lists
from busfast.data.images import read_image
from busfast.data.paths import is_inside
from busfast.data.table import read_table
from busfast.errors import UserError
from busfast.inference.bundle import read_bundle
from busfast.inference.load_bundle import load_bundle
from busfast.inference.resumable_csv import ResumableCsv
from busfast.models.weights import load_state
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import load_config
from security.hostile import RUN

pytestmark = pytest.mark.filterwarnings("ignore")  # a library may warn of such files
fuzz = settings(suppress_health_check=list(HealthCheck))
TRICKY = st.sampled_from(["image", "label", "a.png", "benign", "../a.png", "/etc/hosts", "sub//etc/hosts", "sub/a.png",
                          "x//etc/hosts", "..\\a.png", "~", "a.png\0", "=1", "\ufeff", "\t", "\r", "\u2028", '"', "'",
                          ".", "a" * 300, "C:a.png", "con", "\x1a", "\x85", "-0", "nan"])
CELL = TRICKY | st.text(max_size=8)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates(),
                  st.binary(max_size=5))
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.text(max_size=9) | st.integers() | st.none(), inner, max_size=4), max_leaves=12)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TRICKY | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
                    max_leaves=12)


def may_refuse(function, *args, errors=(UserError,), **flags):
    try:
        return function(*args, **flags)
    except errors as error:
        assert str(error)
        return None


@st.composite
def spoilt(draw, whole: bytes):
    """A file with some bytes changed, a part left out, or something put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)) | st.integers(0, min(len(data), 400)))
        data[place:place + draw(st.integers(0, 40))] = draw(st.binary(max_size=12))
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with two images, and something beside it that is nobody's business."""
    place = tmp_path_factory.mktemp("fuzz")
    (place / "data" / "sub").mkdir(parents=True)
    for name in ("a.png", "data/a.png", "data/b.png", "data/sub/a.png"):
        (place / name).touch()
    return place / "data"


@fuzz
@given(raw=st.binary(max_size=300) | st.text(max_size=200).map(str.encode)
       | st.tuples(st.sampled_from([b"image,label\n", b"\xff\xfe", b"image;label\r\n", b'"image"\t"label"\n']),
                   st.binary(max_size=200)).map(b"".join))
def test_any_bytes_as_a_table(folder, raw):
    (folder / "table.csv").write_bytes(raw)
    (folder / "sources.csv").unlink(missing_ok=True)
    (folder / "list.txt").write_bytes(raw)
    may_refuse(read_rows, folder / "table.csv", ())
    table = may_refuse(read_table, folder)
    if table is not None:
        may_refuse(read_lists, folder / "list.txt", table, ("normal", "benign", "malignant"))


@fuzz
@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=1, max_size=5), end=st.sampled_from("\n\r"),
       separator=st.sampled_from(",;\t"), places=st.none() | st.lists(st.tuples(CELL, CELL), max_size=3))
def test_any_cells_as_a_table_and_no_image_outside_its_folders(folder, rows, end, separator, places):
    text = end.join(separator.join(row) for row in [["image", "label", "mask", "x"][:len(rows[0])], *rows])
    (folder / "table.csv").write_text(text, encoding="utf-8", errors="surrogatepass")
    (folder / "sources.csv").unlink(missing_ok=True)
    if places is not None:
        lines = ["name,folder", *(f"{name},{'' if where == '/etc/hosts' else where}" for name, where in places)]
        (folder / "sources.csv").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    table = may_refuse(read_table, folder)
    if table is not None:
        named = may_refuse(read_rows, folder / "sources.csv", ("name", "folder")) if places else None
        allowed = [folder, *(folder / cells[1] for _, cells in (named.rows if named else ()))]
        for path in table.image_paths():
            assert any(is_inside(os.path.realpath(path), os.path.realpath(place)) for place in allowed), path


@fuzz
@given(raw=st.binary(max_size=300) | st.text(st.sampled_from("epochs:&*! a01-?[]{},'\"|>%@\n\t#<<=.~"), max_size=80)
       .map(str.encode) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_pipeline_file(folder, raw):
    (folder / "p.yaml").write_bytes(raw)
    may_refuse(load_config, str(folder / "p.yaml"))


@fuzz
@given(values=st.dictionaries(st.sampled_from([*Config.__dataclass_fields__, "run"]) | st.text(max_size=5), NESTED,
                              max_size=4))
def test_any_values_in_a_pipeline_file(folder, values):
    (folder / "p.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    found = may_refuse(load_config, str(folder / "p.yaml"))
    assert found is None or (isinstance(found[1], Config) and "/" not in found[0])


@pytest.fixture(scope="module")
def bundle(exported_once, tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzzed") / "bundle"
    shutil.copytree(exported_once / "models" / RUN / "bundle", place)
    return place, (place / "bundle.json").read_bytes()


def read_both(place):
    """Reads a bundle as busfast does, and as whoever copied load_bundle.py; weights that load, load once."""
    loaded, bundle = may_refuse(load_bundle, place, errors=(ValueError, OSError)), may_refuse(read_bundle, place)
    if bundle is not None and loaded is None:
        assert may_refuse(bundle.model) is None


@fuzz
@given(data=st.data())
def test_any_bytes_as_a_bundle_json(bundle, data):
    place, whole = bundle
    (place / "bundle.json").write_bytes(data.draw(st.binary(max_size=200) | spoilt(whole)))
    read_both(place)


@fuzz
@given(changes=st.dictionaries(st.sampled_from(["format", "version", "intended_use", "classes", "architecture", "input",
                                                "temperature", "operating_points", "metrics", "outlier", "run",
                                                "files"]), JSON, min_size=1, max_size=2),
       given_input=st.dictionaries(st.sampled_from(["size", "resize", "channels", "mean", "std", "reading"]), JSON,
                                   max_size=2))
def test_any_values_in_a_bundle_json(bundle, changes, given_input):
    place, whole = bundle
    facts = json.loads(whole)
    facts["input"] |= given_input
    (place / "bundle.json").write_text(json.dumps(facts | changes))
    read_both(place)


@fuzz
@given(data=st.data())
def test_any_bytes_as_weights(exported_once, folder, data):
    state = {"conv_stem.weight": torch.zeros(4, 3)}
    torch.save(state, folder / "good.pth")
    kind = data.draw(st.sampled_from(["good.pth", "x.safetensors"]))
    good = (folder / "good.pth").read_bytes() if kind == "good.pth" else \
        (exported_once / "models" / RUN / "bundle" / "outlier.safetensors").read_bytes()
    (folder / f"bad{Path(kind).suffix}").write_bytes(data.draw(st.binary(max_size=200) | spoilt(good)))
    may_refuse(load_state, folder / f"bad{Path(kind).suffix}")


@fuzz
@given(note=st.binary(max_size=60) | st.fixed_dictionaries(
    dict.fromkeys(("about", "replace"), JSON)).map(
    lambda value: json.dumps(value).encode()) | JSON.map(lambda value: json.dumps(value).encode()), same=st.booleans())
def test_any_note_of_an_interrupted_table(folder, note, same):
    out = folder / "out.csv"
    ResumableCsv(out, ["image"], ARCH, False).close()
    if same:  # the note is about this very table, but wrong
        about = json.loads((folder / "out.csv.part.json").read_text())["about"]
        try:
            note = json.dumps(json.loads(note) | {"about": about}).encode()
        except (ValueError, TypeError):
            pass
    (folder / "out.csv.part.json").write_bytes(note)
    file = may_refuse(ResumableCsv, out, ["image"], ARCH, True)
    if file is not None:
        assert file.rows >= 0
        file.close()


@fuzz
@given(data=st.data())
def test_any_bytes_as_an_image(odd_images, folder, data):
    """Pillow raises nearly anything, but nothing that would end a process; predict gives each a reason."""
    good = odd_images[data.draw(st.sampled_from(sorted(odd_images)))].read_bytes()
    (folder / "image.png").write_bytes(data.draw(spoilt(good)))
    may_refuse(read_image, folder / "image.png", errors=(Exception,))
