"""What holds for every split of any table, checked on tables that hypothesis makes.

Covers busfast/data/split.py, busfast/data/assign.py and busfast/data/groups.py.
"""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from busfast.data.groups import add_groups, group_names
from busfast.data.split import PARTS, SPLITS, UNUSED, class_shares, count_parts, split_folds, split_table
from busfast.data.table import CLASSES, read_table
from busfast.errors import UserError

CENTERS = ("alpha", "beta", "gamma")
DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@st.composite
def tables(draw):
    """Up to 150 images; patients with images of several classes, ids at several centers, unknown ones, duplicates."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, patients = draw(st.integers(30, 150)), draw(st.integers(10, 80))
    labels = rng.choice(CLASSES, size, p=rng.dirichlet((3, 3, 3)))
    centers = rng.choice(CENTERS, size, p=rng.dirichlet((3, 3, 3)))
    patient = rng.integers(0, patients, size).astype(str)
    patient[rng.random(size) < draw(st.sampled_from((0, .2, 1)))] = ""
    table = pd.DataFrame({"image": [f"images/{number}.png" for number in range(size)], "label": labels,
                          "center": centers, "patient": patient, "device": "", "mask": ""}).astype(object)
    return add_groups(table, *rng.integers(0, size, (2, draw(st.integers(0, 8)))))


def folds(table, split, seed):
    """The splits of a table; tables too small to be split are passed over."""
    try:
        return split_folds(table, split, seed=seed, folds=3)
    except UserError as error:
        assert any(words in str(error) for words in ("patients in", "No center has every class", "two centers or more"))
        assume(False)


def across(split):
    """Whether a split takes the same id at two centers for one person."""
    return split in ("stratified", "kfold")


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "given"])
@settings(max_examples=40)
@given(table=tables(), seed=st.integers(0, 2**32 - 1))
def test_no_group_is_on_two_sides_and_every_row_on_one(split, table, seed):
    for made in folds(table, split, seed).values():
        fold = made.rows
        assert set(fold["part"]) <= {*PARTS, UNUSED} and set(PARTS) <= set(fold["part"])
        used = fold[fold["part"] != UNUSED]
        for name in (group_names(used, across_centers=across(split)), group_names(used, across_centers=False)):
            assert (used["part"].groupby(name).nunique() == 1).all()
        if across(split):
            assert len(used) == len(fold)
        if split != "center_holdout" and not across(split):
            assert made.holdout and set(fold["center"][fold["part"] == "test"]) == set(made.holdout)


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "given"])
@settings(max_examples=20)
@given(table=tables(), seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False))
def test_same_seed_same_split_whatever_the_order_of_the_rows(split, table, seed, order):
    positions = list(range(len(table)))
    order.shuffle(positions)
    shuffled = table.iloc[positions].reset_index(drop=True)
    first, second = folds(table, split, seed), folds(shuffled, split, seed)
    assert list(first) == list(second)
    for name in first:
        assert first[name].rows["part"].iloc[positions].to_list() == second[name].rows["part"].to_list()


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "given"])
@settings(max_examples=40)
@given(table=tables(), seed=st.integers(0, 2**32 - 1))
def test_the_shares_of_each_class_are_within_what_is_reported_and_that_is_as_near_as_groups_allow(split, table, seed):
    for fold in folds(table, split, seed).values():
        parts, aims = {"stratified": (PARTS, (.70, .15, .15)), "kfold": (PARTS, (2 / 3 * .85, 2 / 3 * .15, 1 / 3))}.get(
            split, (PARTS[:2], (.85, .15)))
        used = fold.only(*parts).rows
        counts = count_parts(used).loc[list(parts)]
        off = (counts / counts.sum()).sub(pd.Series(aims, index=parts), axis=0).abs()
        assert np.allclose(class_shares(fold.rows, parts), (counts / counts.sum()).T.loc[list(set(used["label"]))]
                           .sort_index())
        said = re.search(r"within ([0-9.]+) points", fold.notes[-1])[1]
        assert 100 * off.max(axis=None) == pytest.approx(float(said), abs=0.051)
        # One image of a class may have to go either way, and what hangs together with it goes along.
        largest = group_names(used, across_centers=True).value_counts().max()
        assert (off * counts.sum()).max(axis=None) <= 2 * largest + 1


@pytest.mark.parametrize("split", ["kfold"])
@settings(max_examples=20)
@given(table=tables(), seed=st.integers(0, 100))
def test_over_the_folds_every_image_is_tested_once(split, table, seed):
    tested = sum((fold.rows["part"] == "test").astype(int) for fold in folds(table, split, seed).values())
    assert (tested == 1).all()


@settings(max_examples=20)
@given(table=tables(), seed=st.integers(0, 100))
def test_leave_one_center_out_tests_each_center_once_and_whole(table, seed):
    for center, fold in folds(table, "leave_one_center_out", seed).items():
        assert ((fold.rows["part"] == "test") == (fold.rows["center"] == center)).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("split", ["stratified", "kfold"])
def test_adding_groups_leaves_most_of_the_others_where_they_were(split, seed):
    rng = np.random.default_rng(seed)
    size, patients = 1000, 300
    own = rng.choice(CLASSES, patients)
    patient = rng.integers(0, patients, size)
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(size)], "label": own[patient],
                          "center": np.array(CENTERS)[patient % 3], "patient": patient.astype(str)}).astype(object)
    before = table[patient < 0.9 * patients].reset_index(drop=True)
    for name, fold in split_folds(table, split, folds=3).items():
        small = split_folds(before, split, folds=3)[name].rows
        moved = fold.rows.set_index("image")["part"].loc[small["image"]].to_numpy() != small["part"].to_numpy()
        assert moved.mean() < 0.25  # a split drawn anew would move about half


@pytest.mark.skipif(not (DATA / "bus").is_dir(), reason=f"no images: {DATA / 'bus'} (BUSFAST_TEST_DATA) is not there")
def test_a_tenth_of_the_groups_of_three_real_centers_moves_few_of_the_rest():
    table = read_table(DATA / "bus", files=False).rows
    whole = split_table(table).rows
    groups = group_names(table, across_centers=True)
    moved = []
    for seed in range(5):
        names = groups.drop_duplicates().sample(frac=0.9, random_state=seed)
        kept = table[groups.isin(names)].reset_index(drop=True)
        before = whole.set_index("image")["part"].loc[kept["image"]].to_numpy()
        moved.append((before != split_table(kept).rows["part"].to_numpy()).mean())
    assert np.mean(moved) < 0.04
