"""What a pipeline file promises: found by name, every value checked before anything runs."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from busfast.errors import UserError
from busfast.pipelines import pipeline_file
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import BUILTIN, describe_source, load_config, name_origins
from busfast.yamlfile import yaml_list

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with an empty pipelines/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    return tmp_path


@pytest.fixture
def write(here):
    """Writes pipelines/mine.yaml and returns its path, as a user in the working folder names it."""
    def write(text):
        path = Path("pipelines") / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)
    return write


def refusal(function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in (HOUSE / "pipelines").glob("*.yaml")))
def test_every_pipeline_file_of_the_house_loads_under_its_name(monkeypatch, name):
    monkeypatch.chdir(HOUSE)
    found, config = load_config(name)
    assert found == name
    assert config.data == f"data/{name}"


def test_the_house_has_the_three_pipelines():
    assert {path.stem for path in (HOUSE / "pipelines").glob("*.yaml")} >= {"phantom", "bus", "btxrd"}


def test_btxrd_is_the_experiment_as_it_was(monkeypatch):
    monkeypatch.chdir(HOUSE)
    assert load_config("btxrd")[1] == Config(data="data/btxrd", holdout=("2", "3"),
                                              classes=("normal", "benign", "malignant"))


def test_without_a_name_it_is_the_phantom(monkeypatch):
    monkeypatch.chdir(HOUSE)
    name, config = load_config()
    assert (name, config.data, config.source) == ("phantom", "data/phantom", "phantom")


@pytest.mark.parametrize("name", ["", "btxrd"])
def test_where_there_is_no_file_of_that_name_it_is_busfasts_own(here, name):
    assert load_config(name) == load_config(str(BUILTIN / f"{name or 'phantom'}.yaml"))
    (here / "pipelines" / "btxrd.yaml").write_text("data: mine\n")
    (here / "pipelines" / "phantom.yaml").write_text("data: mine\n")
    assert load_config(name)[1] == Config(data="mine")


def test_where_settings_come_from_is_said(here):
    assert describe_source() == "busfast's own phantom.yaml"
    assert describe_source(data="data/bus") == "the default ones, as there is no pipelines/bus.yaml"
    (here / "pipelines" / "bus.yaml").write_text("epochs: 3\n")
    assert describe_source(data="data/bus") == describe_source("bus") == "pipelines/bus.yaml"
    assert describe_source("bus", "fast") == "pipelines/bus.yaml, changed by --preset=fast"
    assert describe_source("bus", "fast", epochs="1").endswith("=fast, without its freezing, which would begin after "
                                                               "epoch 1 of 1")


def test_a_data_folders_name_finds_no_file_that_nobody_sees(here):
    assert load_config(data="data/bus") == ("bus", Config(data="data/bus"))


def test_an_unknown_pipeline_is_refused_with_the_nearest_of_busfasts_own(here):
    (here / "pipelines").rmdir()
    assert "Did you mean 'phantom'" in refusal(load_config, "phanton")


def test_without_a_name_and_a_phantom_file_the_way_out_is_said(here, monkeypatch):
    monkeypatch.setattr(pipeline_file, "BUILTIN", here)  # a clone whose links were not made
    message = refusal(load_config)
    assert str(Path("pipelines") / "phantom.yaml") in message
    assert "--data=" in message


def test_an_empty_file_has_the_defaults(write):
    assert load_config(write("# nothing yet\n")) == ("mine", Config())


def test_names_may_be_a_list_or_text_and_numbers_may_be_text(write):
    path = write("classes: benign, malignant\nholdout: [1, two]\nlr: 1e-2\nepochs: '3'\nwd: 1\n")
    config = load_config(path)[1]
    assert (config.classes, config.holdout) == (("benign", "malignant"), ("1", "two"))
    assert (config.lr, config.epochs, config.wd) == (0.01, 3, 1.0)
    assert [type(value) for value in (config.lr, config.epochs, config.wd)] == [float, int, float]


@pytest.mark.parametrize(("key", "nearest"), [("epoch", "epochs"), ("learning_rate", None), ("LR", None),
                                              ("hold_out", "holdout"), (1, None)])
def test_an_unknown_key_is_refused_by_file_with_the_nearest(write, key, nearest):
    path = write(f"{key}: 1\n")
    message = refusal(load_config, path)
    assert path in message
    assert f"'{key}'" in message
    assert "Choose from: data, " in message
    assert nearest is None or f"Did you mean '{nearest}'" in message


@pytest.mark.parametrize("names", [
    ("yes", "no"), ("1e3", "null", "007", "0x1f"), ("2024-02-28", "12:30", "1.0"),
    ("1. Basal Cell (BCC)", "2. Warts & x"), ("HER2+: 3", "50% #1", "C*?"),
    ("\u0938\u093e\u092e\u093e\u0928\u094d\u092f", "\u826f\u6027", "\u0646\u0631\u0645\u200c\u0627\u0644"),
])
def test_names_of_classes_are_read_as_they_are_advised(names, write):
    assert load_config(write(f"classes: {yaml_list(names)}\nholdout: {yaml_list(names)}\n"))[1].classes == names


def test_names_of_classes_need_no_quotes(write):
    assert load_config(write("classes: [yes, no, null, 1e3, 2024-02-28, 007, 1.0]\nholdout:\n- on\n"))[1].classes == (
        "yes", "no", "null", "1e3", "2024-02-28", "007", "1.0")
    for name in ("yes", "007"):
        assert load_config(write(f"classes: [yes, 007]\npositive: {name}\n"))[1].positive == name


@pytest.mark.parametrize("line", ["epochs: 0", "lr: .nan", "lr: .inf", "size: abc", "bs: yes", "resize: sqash",
                                  "seed: 2024-02-28", "arch: [a, b]", "classes: [one]"])
def test_a_wrong_value_in_a_file_is_refused_by_file_and_key(write, line):
    path = write(f"rotate: 5\n{line}\n")
    message = refusal(load_config, path)
    assert message.startswith(f"{path}: ")
    assert line.partition(":")[0] in message


def test_overrides_win_over_the_file_and_none_does_not(write):
    path = write("epochs: 5\nsize: 96\nholdout: [a]\n")
    config = load_config(path, epochs=7, size=None, holdout="b,c", lr="0.01")[1]
    assert (config.epochs, config.size, config.holdout, config.lr) == (7, 96, ("b", "c"), 0.01)


@pytest.mark.parametrize(("key", "value"), [("epochs", "0"), ("size", "big"), ("lr", "1e-9"), ("device", "gpu")])
def test_overrides_are_checked_too(write, key, value):
    message = refusal(load_config, write("epochs: 5\n"), **{key: value})
    assert key in message or value in message
    assert "mine.yaml" not in message


@pytest.mark.parametrize("text", [
    pytest.param("- epochs\n- size\n", id="list"),
    pytest.param("epochs\n", id="text"),
    pytest.param("5\n", id="number"),
])
def test_a_file_that_is_not_keys_and_values_is_refused_by_name(write, text):
    path = write(text)
    assert path in refusal(load_config, path)


@pytest.mark.parametrize("text", [
    pytest.param("epochs: [1\n", id="bracket never closed"),
    pytest.param("epochs: 1: 2\n", id="two colons"),
    pytest.param("\tepochs: 1\n", id="tab"),
    pytest.param("data: Köln\n".encode("latin-1"), id="not UTF-8"),
    pytest.param(b"data: a\0b\n", id="NUL byte"),
    pytest.param("seed: 2024-02-30\n", id="no such date"),
    pytest.param(f"seed: {'9' * 5000}\n", id="number of 5000 digits"),
    pytest.param("seed: !!int many\n", id="not the tagged type"),
    pytest.param("seed: !!bool maybe\n", id="not the tagged choice"),
    pytest.param("!!timestamp 5\n", id="not the tagged date"),
    pytest.param("? [a]\n: 1\n", id="list as a key"),
    pytest.param("size: " + "[" * 10_000, id="deep list"),
    pytest.param("{a: " * 20_000, id="deep mapping"),
    pytest.param("- " * 20_000, id="deep sequence"),
])
def test_broken_yaml_is_refused_by_name(write, text):
    path = write(text)
    assert refusal(load_config, path).startswith(f"{path} is not a plain YAML file")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_code_in_a_file_is_refused_and_does_not_run(write, here, tag):
    path = write(f"data: {tag} ['echo > ran']\n")
    assert path in refusal(load_config, path)
    assert not (here / "ran").exists()


@pytest.mark.parametrize(("folder", "name"), [
    ("my images", "my_images"), ("some/where/bus/", "bus"), ("köln-2", "köln-2"), ("bus.v2", "bus.v2"),
    ("bus/table.csv", "bus"), ("bus/half.csv", "half"),
])
def test_without_a_name_the_pipeline_is_named_after_the_data(here, folder, name):
    assert load_config(data=folder) == (name, Config(data=folder))


def test_a_pipeline_file_named_as_the_data_folder_is_used(write):
    write("epochs: 3\ndata: data/mine\n")
    assert load_config(data="elsewhere/mine") == ("mine", Config(data="elsewhere/mine", epochs=3))


def test_own_data_are_never_made_by_a_source(write):
    path = write("source: phantom\ndata: data/phantom\n")
    assert load_config(path)[1].source == "phantom"
    assert load_config(path, data="data/own")[1].source == ""


def test_an_unknown_pipeline_is_refused_with_the_nearest(write):
    write("epochs: 3\n")
    message = refusal(load_config, "mien")
    assert "'mien'" in message
    assert "Did you mean 'mine'" in message


@pytest.mark.parametrize("name", ["nothing.yaml", "pipelines/nothing.yml", "sub/nothing"])
def test_a_pipeline_file_that_is_not_there_is_named(write, name):
    write("epochs: 3\n")
    assert Path(name).name in refusal(load_config, name)


def as_yaml(config, record):
    values = {key: list(value) if isinstance(value, tuple) else value
              for key, value in dataclasses.asdict(config).items()}
    return yaml.safe_dump(values | {"run": record}, sort_keys=False)


def test_the_configuration_of_a_run_is_a_pipeline_that_gives_the_same(here):
    config = Config(data="data/x", classes=("b", "a"), splits=("center_holdout",), holdout=("one", "2"), size=96,
                    resize="pad", channels="gray", hflip=0, vflip=1, rotate=3.5, arch="resnet18", weights="none",
                    dropout=0, epochs=3, bs=4, lr=3e-5, lr_min=1e-7, wd=0, patience=2, monitor="recall_a", seed=0,
                    loader="torchvision", device="cpu", threads=3)
    folder = here / "results" / "bus" / "stratified"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(as_yaml(config, {"pipeline": "bus", "split": "stratified"}), encoding="utf-8")
    assert load_config(str(folder / "config.yaml")) == ("bus", config)
    assert load_config(str(folder / "config.yaml"), epochs=9) == ("bus", dataclasses.replace(config, epochs=9))


@pytest.mark.parametrize("record", ["5", "[a]", "text"])
def test_a_record_that_is_none_is_refused(write, record):
    path = write(f"run: {record}\n")
    message = refusal(load_config, path)
    assert path in message
    assert "run=" in message


@pytest.mark.parametrize("record", ["run:", "run: {}", "run: {split: stratified}"])
def test_a_record_without_a_pipeline_leaves_the_name_of_the_file(write, record):
    assert load_config(write(f"{record}\n")) == ("mine", Config())


def test_a_key_that_stands_twice_is_refused(write):
    path = write("epochs: 1\nepochs: 3\n")
    with pytest.raises(UserError, match="the key 'epochs' is given twice"):
        load_config(str(path))


@pytest.mark.parametrize("value", ["[]", "", "''"])
def test_a_file_of_0_1_may_hold_an_unused_key_that_is_gone(write, value):
    assert load_config(write(f"progressive: {value}\nepochs: 3\n")) == ("mine", Config(epochs=3))


@pytest.mark.parametrize("value", ["[128, 160]", "128"])
def test_a_key_that_is_gone_is_refused_with_the_reason_where_it_has_a_value(write, value):
    path = write(f"progressive: {value}\n")
    message = refusal(load_config, path)
    assert message.startswith(f"{path}: progressive={value} is no longer possible: training at sizes other than")
    assert message.endswith("Remove that line.")


def test_a_preset_does_not_freeze_in_a_training_that_is_over_before_it_would(here):
    def trained(**flags):
        config = load_config("phantom", "best", **flags)[1]
        return config.epochs, config.freeze, config.freeze_after

    assert trained(epochs="1") == (1, 0, 0) and trained(epochs="2") == (2, 4, 1) and trained() == (4, 4, 1)
    assert trained(epochs=1, freeze_after=0) == (1, 4, 0)  # what is asked for is done, or refused
    assert "freeze_after=1 must be less than epochs=1. Give more epochs, or --freeze_after=0 (frozen" in refusal(
        load_config, "phantom", "best", epochs=1, freeze=2)


def test_a_refusal_says_where_values_come_from_that_nobody_typed(here):
    (here / "pipelines" / "own.yaml").write_text("data: x\nwarmup: 3\nmonitor: val_acc\n")
    message = "warmup=3, freeze_after=1, epochs=4, lr_min=1e-06, augment=light, bs=2"
    assert name_origins(message, "own", "fast", lr=1.0, epochs=4, bs=None) == (
        " augment=light is the default. freeze_after=1 comes from --preset=fast. lr_min=1e-06 is the default. "
        "warmup=3 comes from pipelines/own.yaml.")
    assert not name_origins("Give --warmup=3 or warmup=30, or unwarmup=3", "own")  # no value that the training has
    assert not name_origins("pipelines/none.yaml is not there: epochs=50", "none")


def test_a_preset_goes_over_the_file_and_under_the_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("data: x\nepochs: 30\nsize: 256\nbs: 8\npatience: 3\n")
    config = load_config("own.yaml", preset="fast")[1]
    assert (config.epochs, config.size, config.bs, config.freeze, config.freeze_after) == (4, 216, 16, 4, 1)
    assert config.patience == 3
    config = load_config("own.yaml", preset="fast", epochs="6", size="96", bs="4")[1]
    assert (config.epochs, config.size, config.bs) == (6, 96, 4)
    (tmp_path / "plain.yaml").write_text("data: x\n")
    assert load_config("plain.yaml", preset="fast")[1].size == 192  # of 224
    best = load_config("own.yaml", preset="best")[1]
    assert best == dataclasses.replace(load_config("own.yaml", preset="fast")[1], tta="flip")
    assert "Unknown preset 'fasst'. Did you mean 'fast'" in refusal(load_config, "own.yaml", preset="fasst")
    assert "size=big is not a whole number" in refusal(load_config, "own.yaml", preset="fast", size="big")
