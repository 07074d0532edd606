"""What is known of real images is found in them: by the command a user types, on the folder BUSFAST_TEST_DATA names."""

import os
from pathlib import Path

import pandas as pd
import pytest

from busfast.cli import main

DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
BUS, BTXRD = DATA / "bus", DATA / "btxrd"
needs_bus = pytest.mark.skipif(not BUS.is_dir(), reason=f"no images: {BUS} (BUSFAST_TEST_DATA) is not there")
needs_btxrd = pytest.mark.skipif(not BTXRD.is_dir(), reason=f"no images: {BTXRD} (BUSFAST_TEST_DATA) is not there")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@needs_bus
def test_the_audit_of_three_centers_of_ultrasound_finds_what_is_known_and_pairs_no_strangers(capsys):
    assert main(["audit", f"--data={BUS}"]) == 0
    rows = pd.read_csv("data/about-bus/audit/audit.csv", keep_default_na=False)
    rows[["image", "other"]] = rows[["image", "other"]].replace(r"images/|\.jpg", "", regex=True)
    differ = {(row.finding, row.image, row.other): row.differs for row in rows.itertuples()}
    assert differ["identical", "busi_benign_433", "busi_malignant_145"] == "label"
    for a, b in (("000", "005"), ("001", "008"), ("002", "009"), ("003", "013")):
        assert differ["identical", f"bus_uclm_CHCO_{a}", f"bus_uclm_CHVI_{b}"] == "patient"
    pairs = rows[rows["finding"] == "near-duplicate"]
    assert 200 < len(pairs) < 280 and len(rows[rows["finding"] == "identical"]) == 5
    strangers = pairs[pairs["differs"].str.contains("patient|center")]
    assert strangers[["image", "other"]].to_numpy().tolist() == [["bus_bra_bus_0056-l", "bus_bra_bus_0091-l"]]
    assert "BUS-BRA has no normal image" in set(rows["detail"])
    assert "Cramer's V is 0.45" in capsys.readouterr().out


@needs_btxrd
def test_holding_out_two_centers_of_btxrd_gives_the_test_part_of_the_experiment():
    line = f"split --data={BTXRD} --split=center_holdout --holdout=2,3 --metadata-only"
    assert main(line.split()) == 0
    parts = pd.read_csv("data/about-btxrd/splits/center_holdout.csv")
    test = parts[parts["part"] == "test"]["label"].value_counts()
    assert test.to_dict() == {"benign": 415, "normal": 286, "malignant": 107} and len(parts) == 3746


@needs_btxrd
@pytest.mark.parametrize(("lists", "leaks"), [("stratified", 299), ("center", 105)])
def test_the_leaks_of_the_experiments_lists_are_counted(lists, leaks, capsys):
    assert main(["audit", f"--data={BTXRD}", f"--split={BTXRD / 'splits' / lists}"]) == 0
    out = capsys.readouterr().out
    assert f"{leaks} groups on two sides" in out
    assert "3731 images were not or could not be read: their duplicates are unknown" in out
    assert len(pd.read_csv("data/about-btxrd/audit/leaks.csv")) == leaks
