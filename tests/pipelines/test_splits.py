"""From a configuration to the splits of its runs: each step once, and what is wrong is refused as early as possible.

Covers busfast/pipelines/read_images.py, too.
"""


import pandas as pd
import pytest

from busfast.cli import main
from busfast.data import check, duplicate_pairs, open_data
from busfast.errors import UserError
from busfast.pipelines import backends, splits
from busfast.pipelines.config import Config
from busfast.pipelines.splits import list_seeds, load_table, name_run, name_split, open_table, split_data, split_images
from busfast.training.runs import Run


@pytest.fixture
def config(phantom_folder):
    return Config(data=str(phantom_folder), folds=3)


@pytest.fixture
def count(monkeypatch):
    """Counts the calls of a function of a module."""
    def watch(module, name):
        calls, original = [], getattr(module, name)

        def counted(*args, **kwargs):
            calls.append(args)
            return original(*args, **kwargs)
        monkeypatch.setattr(module, name, counted)
        return calls
    return watch


def duplicate_of_first(rows, prints):
    """Finds the first two images to be one picture."""
    names = rows["image"]
    return pd.DataFrame([(0, 1, names[0], names[1], "near-duplicate", 0.9, False)], columns=duplicate_pairs.COLUMNS)


@pytest.mark.parametrize("duplicates", [False, True])
def test_split_images_gives_what_load_table_and_split_data_give(config, duplicates, monkeypatch, capsys):
    if duplicates:
        monkeypatch.setattr(check, "find_duplicates", duplicate_of_first)
    made = split_images(open_table(config), config, ["stratified", "kfold"])
    printed = capsys.readouterr().out
    whole, pairs = load_table(config)
    expected = {name: split for way in ("stratified", "kfold")
                for name, split in split_data(whole, pairs, config, way).items()}
    assert capsys.readouterr().out == printed and "images were not checked" not in printed
    assert list(made) == list(expected) == ["stratified", "kfold-1of3", "kfold-2of3", "kfold-3of3"]
    for name, split in made.items():
        pd.testing.assert_frame_equal(split.rows, expected[name].rows)
        assert (split.record(), split.notes) == (expected[name].record(), expected[name].notes)
        assert list(split.pixels) == whole.rows["image"].tolist() and all(split.pixels.values())


def test_folds_are_made_again_only_if_the_images_have_duplicates(config, count, monkeypatch):
    calls = count(splits, "split_folds")
    split_images(open_table(config), config, ["kfold"])
    assert len(calls) == 1
    monkeypatch.setattr(check, "find_duplicates", duplicate_of_first)
    first, second = split_images(open_table(config), config, ["stratified"])["stratified"].rows["part"][:2]
    assert len(calls) == 3 and first == second


def test_a_table_that_cannot_be_split_is_refused_before_its_images_are_read(config, count):
    read = count(check, "fingerprint_images")
    with pytest.raises(UserError, match="'nowhere'"):
        split_images(open_table(config), Config(data=config.data, holdout=("nowhere",)), ["stratified",
                                                                                          "center_holdout"])
    assert read == []


def test_on_the_way_to_a_training_nothing_is_read_or_chosen_twice(workdir, count, monkeypatch):
    from busfast.training import turns

    tables = count(open_data, "read_table")
    images = count(check, "fingerprint_images")
    devices, loaders = count(backends, "choose_device"), count(backends, "choose_loader")
    trained = []

    def train_run(pipeline, config, name, split, options):
        trained.append(check.hash_pixels(split))
        return Run(f"{pipeline}/{name}")
    monkeypatch.setattr(turns, "train_run", train_run)
    assert main(["train"]) == 0
    assert [len(calls) for calls in (tables, images, devices, loaders, trained)] == [1] * 5


def test_a_fold_is_refused_where_there_are_none_and_by_its_nearest_name(config):
    whole = open_table(config)
    with pytest.raises(UserError, match="--fold=1 does not apply to --split=stratified"):
        split_data(whole, None, config, "stratified", fold="1")
    with pytest.raises(UserError, match="Did you mean 'gamma'"):
        split_data(whole, None, config, "leave_one_center_out", fold="gama")
    assert list(split_data(whole, None, config, "kfold", fold="2")) == ["kfold-2of3"]


def test_runs_are_named_after_split_fold_and_seed(config):
    assert [name_split("kfold", "2", config), name_split("leave_one_center_out", "St. Mary/1", config),
            name_split("lists/mine.csv", "", config)] == ["kfold-2of3", "leave_one_center_out-St._Mary_1", "lists-mine"]
    seeds = list_seeds("2", config)
    assert [name_run("stratified", item) for item in seeds] == ["stratified-seed42", "stratified-seed43"]
    assert {item.split_seed for item in seeds} == {42} and name_run("stratified", config) == "stratified"
