"""Each setting is a flag of the verbs that train, with its type, help and default, without a line in the verb."""

import inspect
import os
from dataclasses import fields

import pytest
from PIL import Image

from busfast.cli import VERBS, flags, main, parse
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.pipelines.settings import describe, setting

FILE_ONLY = {"source", "classes", "splits", "resize", "channels", "hflip", "vflip", "rotate", "dropout", "wd"}
LEFT_OUT = {
    "train": set(),
    "sweep": {"split_seed"},
    "lr_find": {"folds", "freeze", "freeze_after", "unfreeze_after", "epochs", "lr", "lr_min", "lr_mult", "warmup",
                "accumulate", "clip", "ema", "tta", "metrics", "patience", "monitor", "split_seed", "schedule", "mixup",
                "cutmix", "positive"},
}


@pytest.mark.parametrize("verb", LEFT_OUT)
def test_the_flags_of_a_verb_are_the_settings_meant_for_it(verb, capsys):
    parameters = inspect.signature(VERBS[verb]).parameters
    settings = {item.name: item for item in fields(Config)}
    assert set(parameters) & set(settings) == set(settings) - FILE_ONLY - LEFT_OUT[verb]
    assert main([verb, "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for name in set(parameters) & set(settings):
        kind = settings[name].type if settings[name].type in (int, float) else str
        assert parameters[name].annotation is kind and parameters[name].default is None
        text, _, default = describe(settings[name]).partition(" Default: ")
        shown = page.partition(f"--{name}={name.upper()} Type: {kind.__name__} {text}")[2]
        assert shown.startswith(f" Default: {default.rstrip('.')}") if default else shown


def test_a_new_setting_is_a_flag_without_a_change_of_the_verb(monkeypatch):
    item = setting(0, "epochs of a rising learning rate", low=0, high=10)
    item.name, item.type = "heat", int
    monkeypatch.setattr(flags, "fields", lambda config: (*fields(config), item))

    @flags.with_settings(("bs", "seed", "holdout", "heat"), seed="a dice")
    def verb(*, split: str = "stratified", jobs: int = 1, **settings):
        """Trains.

        Args:
            split: a split
                of two lines.
            settings: those of the pipeline file.
            jobs: how many.
        """
        return flags.flatten(locals())

    parameters = inspect.signature(verb).parameters
    assert list(parameters) == ["split", "holdout", "bs", "seed", "heat", "jobs"]
    assert "    seed: seed of split, weights, order and augmentation. Default: a dice.\n" in verb.__doc__
    assert "    heat: epochs of a rising learning rate. Default: 0.\n    jobs: how many." in verb.__doc__
    verbs = {"verb": verb}
    parse.check(verbs, ["verb", "--heat=3"])
    call = parse.parse(verbs, ["verb", "--heat=3", "--bs=8"])
    assert verb(**call.kwargs) == {"split": "stratified", "jobs": 1, "heat": "3", "bs": "8"}
    assert parse.command("verb", verb(**call.kwargs), verb) == "python -m busfast verb --bs=8 --heat=3"
    with pytest.raises(UserError, match="Unknown flag of verb '--lr'"):
        parse.check(verbs, ["verb", "--lr=1"])


def test_any_key_can_be_set_and_values_may_hold_commas():
    given = {"lr": "1e-3", "bs": None}
    assert flags.read_keys("wd=0.01,classes=cat,dog, hflip=0.1", given) == given | {
        "wd": "0.01", "classes": "cat,dog", "hflip": "0.1"}
    assert flags.read_keys(None, given) == given


def test_model_flags_are_checked_and_those_not_given_left_out():
    assert flags.model_flags(bs="16", device=None) == {"bs": 16}
    with pytest.raises(UserError, match="bs=1 is out of range"):
        flags.model_flags(bs=1)


def test_a_configuration_without_data_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("epochs: 1\n")
    with pytest.raises(UserError, match="The pipeline 'mine' names no data folder. Add a line `data: FOLDER`"):
        flags.configure("mine.yaml")


@pytest.mark.parametrize(("limit", "refused"), [("1100", True), ("1199", False), ("2e3", False)])
def test_the_limit_of_pixels_is_a_flag_of_what_reads_images(tmp_path, monkeypatch, limit, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("BUSFAST_MAX_PIXELS", "")  # and removed in the end
    for label in ("benign", "malignant"):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.effect_noise((40, 30), 50).save(tmp_path / "in" / label / f"{label}.png")
    assert main(["audit", "--data=in", f"--max_pixels={limit}"]) == 0
    findings = (tmp_path / "data" / "about-in" / "audit" / "audit.csv").read_text()
    said = "too many pixels to decode: 1200; the limit is 1100 (if the file is right: --max_pixels=1200)"
    assert (said in findings) == refused
    # What is known of the images does not outlive the limit by which it was found.
    for other, expected in (("1200", False), ("1100", True)):
        assert main(["audit", "--data=in", f"--max_pixels={other}", "--out=again"]) == 0
        assert (said in (tmp_path / "again" / "audit.csv").read_text()) == expected
    assert os.environ["BUSFAST_MAX_PIXELS"] == "1100"


@pytest.mark.parametrize("wrong", ["many", "0", "-5", "1.5"])
def test_a_limit_that_is_none_is_refused(wrong):
    assert main(["audit", "--data=in", f"--max_pixels={wrong}"]) == 2
