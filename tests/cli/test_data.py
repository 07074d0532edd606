"""prepare, audit and split as the user types them, and train on what they wrote.

Covers busfast/data/quarantine.py, too.
"""

import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from busfast.cli import main
from busfast.csvfile import read_rows, write_csv
from busfast.data import read_table

CLASSES = ("normal", "benign", "malignant")


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


def texture(seed):
    """A picture that is like no other."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (10, 12), dtype=np.uint8)).resize((120, 100), Image.Resampling.BICUBIC)


@pytest.fixture
def mine(workdir):
    """data/mine: 60 images of two centers, and what goes wrong with such sets."""
    folder = workdir / "data" / "mine"
    folder.mkdir(parents=True)
    rows = []
    for number in range(60):
        image = texture(number)
        image.save(folder / f"{number}.png")
        rows.append([f"{number}.png", CLASSES[number % 3], ("A", "B")[number % 2], f"p{number // 2}"])
    texture(0).save(folder / "0 again.bmp")  # the same pixels, another label
    texture(1).resize((60, 50)).save(folder / "1 small.jpg", quality=60)  # nearly the same, another patient
    (folder / "cut.png").write_bytes((folder / "5.png").read_bytes()[:900])
    Image.new("L", (90, 90), 7).save(folder / "flat.png")
    texture(99).resize((30, 40)).save(folder / "tiny.png")
    rows += [["0 again.bmp", "benign", "A", "x1"], ["1 small.jpg", "benign", "B", "x2"], ["cut.png", "normal", "A", ""],
             ["flat.png", "normal", "A", ""], ["tiny.png", "normal", "A", ""]]
    write_csv(pd.DataFrame(rows, columns=["image", "label", "center", "patient"]), folder / "table.csv")
    return folder


def findings(folder="data/mine/audit"):
    header, rows, _ = read_rows(f"{folder}/audit.csv", ("finding",), empty=True)
    return pd.DataFrame([cells for _, cells in rows], columns=header)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_audit_finds_what_is_wrong_and_changes_nothing_of_the_set(mine, capsys):
    before = snapshot(mine)
    run("audit", "--data=data/mine")
    rows = findings()
    found = {(row.finding, row.image, row.other): row for row in rows.itertuples()}
    assert found["unreadable", "cut.png", ""].detail.startswith("OSError: ")
    assert found["constant", "flat.png", ""].detail == "every pixel is 7"
    assert found["tiny", "tiny.png", ""].detail == "30 x 40 pixels"
    assert found["identical", "0.png", "0 again.bmp"].differs == "label, patient"
    assert found["near-duplicate", "1.png", "1 small.jpg"].differs == "patient"
    assert {key[0] for key in found} == {"unreadable", "constant", "tiny", "identical", "near-duplicate",
                                         "patient id at several centers"}
    out = capsys.readouterr().out
    for words in ("1 pair, 1 of different labels, 1 of different patients", "Cramer's V is 0.",
                  "wrote data/mine/audit"):
        assert words in out
    page = (mine / "audit" / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 and "<script" not in page and "http" not in page
    assert {path: text for path, text in snapshot(mine).items() if "audit" not in path.parts} == before


def test_a_person_decides_and_the_next_audit_and_split_heed_it(mine, capsys):
    run("audit", "--data=data/mine")
    rows = findings()
    near = rows["finding"] == "near-duplicate"
    rows.loc[near, "decision"] = "different"
    write_csv(rows, mine / "audit" / "audit.csv")
    capsys.readouterr()
    run("audit", "--data=data/mine")
    assert "near-duplicate" not in capsys.readouterr().out
    assert findings().loc[near, "decision"].tolist() == ["different"]
    run("audit", "--data=data/mine", "--quarantine")
    capsys.readouterr()
    run("audit", "--data=data/mine-clean")
    out = capsys.readouterr().out
    assert "near-duplicate" not in out and "decided to be different" in out and "1 pair\n" in out
    for word, row, said in (("differnt", near, "'differnt' is unknown"),
                            ("different", rows["finding"] == "identical", "have the same pixels")):
        rows["decision"] = np.where(row, word, "")
        write_csv(rows, mine / "audit" / "audit.csv")
        run("audit", "--data=data/mine", code=2)
        assert said in capsys.readouterr().err


def test_quarantine_writes_a_table_without_what_is_broken_that_can_be_split(mine, capsys):
    run("audit", "--data=data/mine", "--quarantine")
    table = read_table("data/mine-clean")
    gone = {"0.png", "0 again.bmp", "cut.png", "flat.png"}
    assert set(read_table("data/mine", files=False).rows["image"]) - set(table.rows["image"]) == gone
    assert all(path.samefile(mine / path.name) for path in table.image_paths())
    header, rows, _ = read_rows("data/mine-clean/left_out.csv", ("image", "left_out"))
    reasons = {cells[0]: cells[1] for _, cells in rows}
    assert set(reasons) == gone and reasons["0.png"].startswith("identical images with different labels")
    run("split", "--data=data/mine-clean")
    run("audit", "--data=data/mine", "--quarantine", code=2)
    assert "data/mine-clean already exists" in capsys.readouterr().err


def test_of_identical_images_with_one_label_one_is_kept(mine):
    lines = (mine / "table.csv").read_text().replace("0 again.bmp,benign", "0 again.bmp,normal")
    (mine / "table.csv").write_text(lines)
    run("audit", "--data=data/mine", "--quarantine")
    kept = set(read_table("data/mine-clean").rows["image"])
    assert len(kept & {"0.png", "0 again.bmp"}) == 1


def test_audit_of_a_foreign_folder_writes_here_and_not_there(mine, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "theirs"
    shutil.copytree(mine, elsewhere)
    before = snapshot(elsewhere)
    run("audit", f"--data={elsewhere}")
    assert snapshot(elsewhere) == before and len(findings("data/about-theirs/audit"))


def test_two_foreign_folders_of_one_name_are_not_taken_for_each_other(mine, tmp_path_factory, capsys):
    first, second = (tmp_path_factory.mktemp("elsewhere") / "set" for _ in range(2))
    for folder in (first, second):
        shutil.copytree(mine, folder)
    run("audit", f"--data={first}")
    before = snapshot(mine.parent)
    for verb in ("audit", "split"):
        run(verb, f"--data={second}", "--metadata-only", code=2)
        assert f"data/about-set is about {first}, not about {second}" in capsys.readouterr().err
    assert snapshot(mine.parent) == before
    run("audit", f"--data={second}", "--out=there")
    assert len(findings("there"))
    run("audit", f"--data={first}")  # its own again


def test_links_out_of_the_folder_are_found_and_their_images_are_kept(mine, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    (mine / "7.png").rename(outside)
    (mine / "7.png").symlink_to(outside)
    run("audit", "--data=data/mine", "--quarantine")
    rows = findings()
    assert rows["detail"][rows["finding"] == "link out of the folder"].tolist() == [f"leads to {outside}"]
    assert "7.png" in set(read_table("data/mine-clean").rows["image"])


def save(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        texture(number).save(folder / name)


@pytest.mark.parametrize("labels", [("1. Basal Cell (BCC)", "2. Warts & other"), ("yes", "no"), ("1e3", "null")])
def test_what_prepare_says_to_type_works_when_it_is_pasted(labels, workdir, capsys):
    save(workdir / "my set", [f"{labels[number % 2]}/{number} (1).png" for number in range(24)])
    run("prepare", "--source=folder", "--path=my set", "--out=data/in 1")
    out = capsys.readouterr().out
    line, file = re.search(r"write into (\S+): `(.*)`", out).group(2, 1)
    (workdir / file).write_text(f"{line}\n")
    words = shlex.split(out.partition("Next: python -m busfast ")[2].strip())
    run(*words)
    run("split", words[1])
    counts = capsys.readouterr().out
    assert all(f" {label}" in counts for label in labels)


def test_prepare_counts_in_the_order_of_the_classes_and_proposes_none_where_a_pipeline_file_is(workdir, capsys):
    save(workdir / "set", ["viral/1.png", "viral/2.png", "viral/3.png", "bacterial/4.png", "healthy/5.png"])
    (workdir / "pipelines/own.yaml").write_text("data: data/own\nclasses: [viral, healthy, bacterial]\n")
    for out, proposed in (("new", "classes: [healthy, bacterial, viral]"), ("own", "")):
        run("prepare", "--source=folder", "--path=set", f"--out=data/{out}")
        said = capsys.readouterr().out
        assert "(healthy 1, bacterial 1, viral 3)" in said
        assert proposed in said and ("classes: [" in said) == bool(proposed)


def test_prepare_says_which_folder_can_be_no_class(workdir, capsys):
    save(workdir / "set", ["- a'b/1.png", "+ c/2.png"])
    run("prepare", "--source=folder", "--path=set")
    assert "warning: The class name '+ c' must begin with a letter or digit" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--split=given"], ["--split=data/set/table.csv"]])
def test_a_published_test_part_is_the_test_part_and_validation_is_drawn_from_training(flags, workdir, capsys):
    save(workdir / "set", [f"{'Testing' if number >= 48 else 'Training'}/{'ab'[number % 2]}/p{number // 4}/{number}.png"
                           for number in range(60)])
    run("prepare", "--source=folder", "--path=set")
    assert "(valid is drawn from train)" in capsys.readouterr().out
    (workdir / "data" / "folder").rename(workdir / "data" / "set")
    run("train", "--data=data/set", *flags, "--epochs=1", "--size=32", "--arch=test_efficientnet.r160_in1k",
        "--weights=none", "--device=cpu", "--loader=torchvision", "--cache=off", "--bs=8")
    assert "the split has no part valid: 15% of train is taken for it" in capsys.readouterr().out
    rows = pd.read_csv(next((workdir / "results").rglob("split.csv")))
    assert set(rows["image"][rows["part"] == "test"].str.contains("Testing")) == {True}
    assert (rows["part"] == "test").sum() == 12 and 0 < (rows["part"] == "valid").sum() < 16
    assert (rows.groupby("patient")["part"].nunique() == 1).all()


def test_what_a_published_split_has_on_both_sides_is_left_out_of_training(workdir, capsys):
    save(workdir / "set", [f"{part}/{'ab'[number % 2]}/p{number}/1.png" for number in range(40)
                           for part in ("train" if number < 25 else "valid" if number < 32 else "test",)])
    for number, old, new in ((35, "test", "train"), (36, "test", "valid"), (26, "valid", "train")):
        copy = workdir / "set" / new / "ab"[number % 2] / f"copy{number}"
        copy.mkdir()
        shutil.copy(workdir / "set" / old / "ab"[number % 2] / f"p{number}" / "1.png", copy)
    texture(99).save(workdir / "set" / "train" / "a" / "p34.png")
    run("split", "--data=set", "--split=original", "--out=mine")
    out = capsys.readouterr().out
    assert "3 images left out (2 of train, 1 of valid): a duplicate, or another image of the patient" in out
    rows = pd.read_csv("mine/given.csv")
    assert set(rows["image"][rows["part"] == "unused"].str.extract(r"(copy\d+)")[0]) == {"copy35", "copy36", "copy26"}
    assert (rows["part"] == "test").sum() == 8
    flags = ("--epochs=1", "--size=32", "--arch=test_efficientnet.r160_in1k", "--weights=none", "--device=cpu",
             "--loader=torchvision", "--cache=off")
    run("train", "--data=set", "--allow-leaks", *flags)
    out = capsys.readouterr().out
    assert "images left out" not in out and "3 pairs of identical images on two sides" in out


def test_an_audit_page_of_somebody_else_is_not_overwritten(mine, capsys):
    (mine / "audit").mkdir()
    (mine / "audit" / "audit.html").write_text("mine")
    run("audit", "--data=data/mine", code=2)
    assert "was not written by busfast" in capsys.readouterr().err
    assert (mine / "audit" / "audit.html").read_text() == "mine"


def test_leaks_of_lists_are_counted_by_audit_refused_by_train_and_marked_if_allowed(mine, workdir, capsys):
    for name in ("cut.png", "flat.png", "tiny.png"):
        (mine / name).unlink()
    lines = [line for line in (mine / "table.csv").read_text().splitlines() if line.split(",")[0] not in
             ("cut.png", "flat.png", "tiny.png")]
    (mine / "table.csv").write_text("\n".join(lines) + "\n")
    part = ["train", "train", "train", "train", "valid", "valid", "test", "test"]
    rows = [[f"{number}.png", part[number // 2 % 8]] for number in range(60)] + [["0 again.bmp", "test"],
                                                                                ["1 small.jpg", "valid"]]
    (workdir / "lists").mkdir()
    write_csv(pd.DataFrame(rows, columns=["file", "set"]), workdir / "lists" / "theirs.csv")
    run("audit", "--data=data/mine", "--split=lists/theirs.csv")
    said = "1 pair of identical images, 1 pair of near-duplicates"
    assert said in capsys.readouterr().out
    run("train", "--data=data/mine", "--pipeline=phantom", "--split=lists/theirs.csv", "--epochs=1", code=2)
    message = capsys.readouterr().err
    assert said in message and "identical: 0.png (train), 0 again.bmp (test)" in message
    assert not (workdir / "results").exists()
    run("train", "--data=data/mine", "--pipeline=phantom", "--split=lists/theirs.csv", "--epochs=1", "--allow-leaks")
    assert "LEAKS" in capsys.readouterr().out
    config = workdir / "results" / "phantom" / "lists-theirs" / "config.yaml"
    assert yaml.safe_load(config.read_text())["run"]["leaks"] == said
    assert "--split=lists/theirs.csv --allow-leaks" in config.read_text()


def test_split_writes_files_that_train_reads_and_that_are_not_overwritten(workdir, capsys):
    run("split", "--split=kfold", "--folds=3", "--out=mine")
    assert sorted(path.name for path in (workdir / "mine").iterdir()) == [
        "kfold-1of3.csv", "kfold-2of3.csv", "kfold-3of3.csv"]
    run("split", "--split=kfold", "--folds=3", "--out=mine")
    assert capsys.readouterr().out.count("unchanged mine/kfold-") == 3
    before = snapshot(workdir / "mine")
    run("split", "--split=kfold", "--folds=3", "--seed=1", "--out=mine", code=2)
    assert "kfold-1of3.csv holds another split" in capsys.readouterr().err
    assert snapshot(workdir / "mine") == before
    run("split", "--split=kfold", "--folds=3", "--seed=1", "--out=mine", "--overwrite")
    assert snapshot(workdir / "mine") != before
    run("train", "--split=mine/kfold-2of3.csv", "--epochs=1")
    assert (workdir / "results" / "phantom" / "lists-kfold-2of3" / "training_log.csv").is_file()


def test_every_fold_is_trained_and_reported_by_one_command(workdir, capsys):
    run("train", "--split=leave_one_center_out", "--epochs=1")
    table = pd.read_csv("results/compare.csv")
    names = [f"phantom/leave_one_center_out-{center}" for center in ("alpha", "beta", "gamma")]
    assert sorted(table["run"]) == names
    for name, center in zip(names, ("alpha", "beta", "gamma"), strict=True):
        parts = pd.read_csv(f"results/{name}/split.csv")
        assert set(parts["center"][parts["part"] == "test"]) == {center}
    capsys.readouterr()
    run("train", "--split=leave_one_center_out", "--fold=beta", "--epochs=1")
    assert (workdir / "results" / "phantom" / "leave_one_center_out-beta-2" / "training_log.csv").is_file()
    run("train", "--split=leave_one_center_out", "--fold=betta", code=2)
    assert "Did you mean 'beta'?" in capsys.readouterr().err


def test_metadata_only_needs_no_image(mine, capsys):
    for path in mine.glob("*.png"):
        path.unlink()
    run("split", "--data=data/mine", "--split=center_holdout", "--holdout=B", "--metadata-only")
    parts = pd.read_csv("data/mine/splits/center_holdout.csv")
    assert ((parts["part"] == "test") == (parts["center"] == "B")).all()
    assert "images were not checked for duplicates" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "message"), [
    ("prepare --source=busi", "prepare needs --path=VALUE"),
    ("prepare --source=bus --path=.", "Unknown source 'bus'. Did you mean 'busi'?"),
    ("prepare --source=csv --path=x --columns=image", "--columns=image: 'image' is not NAME=COLUMN"),
    ("prepare --source=busi,bus_bra --path=.", "2 sources (busi, bus_bra) need as many paths"),
    ("audit --data=nothing", "There is no data folder 'nothing'"),
    ("train --split=orignal", "Unknown split 'orignal'. Did you mean 'original'?"),
    ("split --split=orignal", "Unknown split 'orignal'. Did you mean 'original'?"),
    ("audit --split=no/such", "There are no lists at no/such"),
    ("audit --split=stratfied", "To write it to a file: python -m busfast split --split=stratified"),
    ("split --split=kfold --folds=1", "folds=1 is out of range"),
    ("split --split=lists.csv", "Unknown split 'lists.csv'"),
    ("train --split=stratified --folds=3", "--folds=3 does not apply to --split=stratified"),
    ("train --split=stratified --fold=3", "--fold=3 does not apply to --split=stratified"),
    ("train --split=no/lists", "There are no lists at no/lists"),
])
def test_wrong_lines_are_refused_and_change_nothing(workdir, line, message, capsys):
    before = sorted(workdir.rglob("*"))
    run(*line.split(), code=2)
    assert message in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before


def test_what_was_prepared_is_audited_trained_and_predicted_where_it_lies(workdir, capsys):
    for number in range(45):
        folder = workdir / "export" / CLASSES[number % 3].capitalize()
        folder.mkdir(parents=True, exist_ok=True)
        texture(number).save(folder / f"{number}, \"x\" é.png")
    before = snapshot(workdir / "export")
    run("prepare", "--source=folder", "--path=export", "--center=here")
    run("audit", "--data=data/folder")
    assert findings("data/folder/audit").empty
    run("train", "--data=data/folder", "--pipeline=phantom", "--epochs=1")
    for what in ("data/folder/table.csv", "data/folder"):
        run("predict", what, "--run=phantom/stratified", "--out=out.csv", "--overwrite")
        rows = pd.read_csv("out.csv")
        assert len(rows) == 45 and (rows["status"] == "ok").all()
    assert snapshot(workdir / "export") == before


def test_a_set_of_other_classes_is_audited_before_it_has_a_pipeline_file(workdir, capsys):
    for number, label in enumerate(["cyst", "solid", "solid"]):
        (workdir / "export" / label).mkdir(parents=True, exist_ok=True)
        texture(number).save(workdir / "export" / label / f"{number}.png")
    run("prepare", "--source=folder", "--path=export", "--center=here", "--out=data/mine")
    run("audit", "--data=data/mine")
    assert "audit of data/mine: 3 images" in capsys.readouterr().out
    run("split", "--data=data/mine", code=2)
    assert "Class 'cyst' has 1 patients" in capsys.readouterr().err


def test_a_folder_as_published_is_told_what_to_do(workdir, capsys):
    folder = workdir / "Dataset_BUSI"
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        texture(len(label)).save(folder / label / f"{label} (1).png")
        texture(len(label)).save(folder / label / f"{label} (1)_mask.png")
    run("train", f"--data={folder}", code=2)
    assert "it looks like busi" in capsys.readouterr().err
