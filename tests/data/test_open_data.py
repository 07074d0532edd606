"""Class folders, CSV files with the usual column names and prepared folders are read as they lie."""

from pathlib import Path

import pytest
from PIL import Image

from busfast.cli import main
from busfast.data.labels import find_classes, order_classes
from busfast.data.open_data import find_data, hash_data, is_prepared, read_data
from busfast.data.split import split_table
from busfast.errors import UserError


def image(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 30), 20 + number % 50).save(path)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of 15 images of each of two classes."""
    monkeypatch.chdir(tmp_path)
    for number in range(30):
        image(Path("pets") / ("cat", "dog")[number % 2] / f"{number}.png", number)
    return Path("pets")


def write_csv(folder, header, row, count=30):
    for number in range(count):
        image(folder / "photos" / f"{number}.png", number)
    rows = [row(number) for number in range(count)]
    (folder / "list.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def refusal(data):
    with pytest.raises(UserError) as error:
        read_data(data)
    return str(error.value)


@pytest.mark.parametrize(("labels", "classes"), [
    (["dog", "cat", "cat"], ("cat", "dog")), (["malignant", "cyst", "Benign"], ("benign", "malignant", "cyst")),
    (["covid", "healthy"], ("healthy", "covid")), (["edema", "No_Finding", "No Finding", "No Finding"],
                                                   ("No Finding", "edema")),
    (["benign", "Control", "acute", "malignant", "normal"], ("normal", "Control", "benign", "malignant", "acute")),
    (["10", "9", "1"], ("1", "9", "10")), (["-1", "1", "1.0"], ("-1", "1", "1.0")),
    (["basal cell", "Basal_Cell", "basal cell", "x"], ("basal cell", "x")),
])
def test_classes_are_found_in_the_models_order(labels, classes):
    assert order_classes(labels) == classes
    assert set(find_classes(labels)) == set(labels) and set(find_classes(labels).values()) == set(classes)


def test_class_folders_are_read_without_a_table(pets):
    before = sorted(Path().rglob("*"))
    table = read_data("pets")
    assert sorted(Path().rglob("*")) == before
    assert sorted(set(table.rows["label"])) == ["cat", "dog"] and len(table) == 30 and table.root == pets
    assert all(path.is_file() for path in table.image_paths())
    assert not is_prepared("pets") and len(hash_data("pets")) == 64
    image(pets / "cat" / "new.png")
    first = hash_data("pets")
    image(pets / "cat" / "newer.png")
    assert hash_data("pets") != first


def test_class_folders_without_patients_and_centers_are_told_the_commands_that_name_them(pets, capsys):
    note = read_data("pets").notes[-1]
    assert note.startswith("class folders name no patient and no center")
    with pytest.raises(UserError) as refused:
        split_table(read_data("pets"), "center_holdout")
    told = [line[line.index("--source"):] for line in str(refused.value).split("\n") if "python -m busfast" in line]
    assert note.endswith(told[0]) and main(["prepare", *told[0].split()]) == 0
    assert [*read_data("data/NAME").rows[["patient", "center"]].iloc[0]] == ["", ""]
    for center in "AB":
        image(Path(center, "cat", "1.png"), 1)
        image(Path(center, "dog", "2.png"), 2)
    assert main(["prepare", *told[1].replace("NAME", "both").split()]) == 0
    assert list(read_data("data/both").rows["center"]) == ["A", "A", "B", "B"]
    for number in range(4):
        image(Path("named", "cd"[number % 2], f"P{number}", "1.png"), number)
    assert read_data("named").notes[-1].startswith("class folders name no center;")


@pytest.mark.parametrize(("header", "columns"), [
    ("file_name,dx,pid,hospital", ("dx", "pid", "hospital")), ("path,class,case,site", ("class", "case", "site")),
    ("Image Path,Diagnosis,Patient ID,Centre", ("Diagnosis", "Patient ID", "Centre")),
    ("image,label,patient,center", ()),
])
def test_the_usual_column_names_are_understood_and_said(tmp_path, header, columns):
    write_csv(tmp_path, header, lambda number: f"photos/{number}.png,{'ab'[number % 2]},p{number // 2},h{number % 3}")
    for data in (tmp_path / "list.csv", tmp_path):
        table = read_data(data)
        assert table.rows["patient"].nunique() == 15 and set(table.rows["center"]) == {"h0", "h1", "h2"}
        assert set(table.rows["label"]) == {"a", "b"}
        assert all(f"{column} as " in "; ".join(table.notes) for column in columns)


@pytest.mark.parametrize(("column", "values", "parts"), [
    ("is_valid", ("True", "False"), {"valid", "train"}), ("split", ("train", "test"), {"train", "test"}),
    ("fold", ("0", "1"), None), ("subset", ("training", "val"), {"train", "valid"}),
])
def test_a_column_that_names_the_parts_is_taken_and_one_of_numbers_is_not(tmp_path, column, values, parts):
    write_csv(tmp_path, f"image,target,{column}",
              lambda number: f"photos/{number}.png,{number % 2},{values[number // 15]}")
    rows = read_data(tmp_path).rows
    if parts is None:
        assert "original_split" not in rows and set(rows["original_fold"]) == {"0", "1"}
    else:
        assert set(rows["original_split"]) == parts


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_images_may_lie_below_and_be_named_without_folder_or_suffix(tmp_path, suffix):
    write_csv(tmp_path, "id,species", lambda number: f"{number}{suffix},{'ab'[number % 2]}")
    for data in (tmp_path / "list.csv", tmp_path):
        table = read_data(data)
        assert table.rows["image"].tolist() == [f"photos/{number}.png" for number in range(30)]
        assert f"30 files found by name, such as photos/0.png for '0{suffix}'" in table.notes
    (tmp_path / "paths.csv").write_text("id,species\nphotos/1,a\nother/2.png,b\n")  # a path is not looked for elsewhere
    assert "1 images of its 2 rows are not in" in refusal(tmp_path / "paths.csv")
    (tmp_path / "paths.csv").unlink()
    image(tmp_path / "more" / "7.png")  # now 7 could be either
    assert f"1 images of its 30 rows are not in {tmp_path}, e.g. row 9: '7" in refusal(tmp_path / "list.csv")


def test_a_table_of_ids_is_not_taken_for_folders_of_classes_however_deep_the_images_lie(tmp_path):
    for number in range(6):
        image(tmp_path / f"images_{number % 2:03d}" / "images" / f"{number}.png", number)
    lines = [f"{number},{'ab'[number // 3]}" for number in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["id,species", *lines]) + "\n")
    rows = read_data(tmp_path).rows
    assert rows["label"].tolist() == list("aaabbb") and rows["image"][1] == "images_001/images/1.png"


def test_what_cannot_be_read_says_what_was_seen_and_the_way_out(tmp_path):
    write_csv(tmp_path / "odd", "where,what", lambda number: f"photos/{number}.png,a")
    assert "looks like 'image' or 'label' (found: where, what; usual names: image" in refusal(tmp_path / "odd")
    assert "--columns=image=COLUMN,label=COLUMN" in refusal(tmp_path / "odd")
    for name in ("a.csv", "b.csv"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_text("image,label\nx.png,a\n")
    assert "has 2 tables (a.csv, b.csv). Name one of them" in refusal(tmp_path / "two")
    image(tmp_path / "loose" / "1.png")
    assert "has no table.csv" in refusal(tmp_path / "loose")
    assert "There is no data folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "IMAGES").mkdir()
    assert f"IMAGE'. Did you mean '{tmp_path / 'IMAGES'}'? Name a folder" in refusal(tmp_path / "IMAGE")
    assert find_data(tmp_path / "two" / "a.csv") == tmp_path / "two" / "a.csv"


@pytest.mark.parametrize("command", ["train --epochs=1 --size=32 --arch=test_efficientnet.r160_in1k --weights=none "
                                     "--device=cpu --loader=torchvision --cache=off --bs=8"])
def test_from_class_folders_to_predictions_in_two_commands_and_no_file(pets, command, capsys):
    before = sorted(pets.rglob("*"))
    assert main([*command.split(), "--data=pets", "--then=evaluate"]) == 2  # before anything is trained
    assert "pets: which of the classes cat, dog is the positive one" in capsys.readouterr().err
    assert not Path("results").exists()
    assert main([*command.split(), "--data=pets"]) == 0
    assert main(["evaluate", "--run=pets/stratified", "--positive=cat"]) == 0
    assert "  classes: cat, dog\n" in capsys.readouterr().out
    assert Path("results/pets/stratified/predictions.csv").is_file()
    assert sorted(pets.rglob("*")) == before and sorted(map(str, Path().iterdir())) == ["models", "pets", "results"]
    assert main([*command.split(), "--data=pets", "--resume", "--positive=dog", "--then=evaluate"]) == 0
    out = capsys.readouterr().out
    assert "is finished; nothing is left to do" in out and "  dog if its probability is" in out
    image(pets / "dog" / "31.png", 31)
    assert main(["evaluate", "--run=pets/stratified", "--again"]) == 0  # its own images are all there
    for verb in ("explain", "report", "export"):
        assert main([verb, "--run=pets/stratified"]) == 0


def test_train_valid_and_test_folders_are_the_split(pets, capsys):
    for part, numbers in (("train", range(0, 18)), ("val", range(18, 24)), ("test", range(24, 30))):
        for number in numbers:
            image(Path("parts") / part / ("cat", "dog")[number % 2] / f"{number}.png", number)
    flags = ["--epochs=1", "--size=32", "--arch=test_efficientnet.r160_in1k", "--weights=none", "--device=cpu",
             "--loader=torchvision", "--cache=off", "--bs=8"]
    assert main(["train", "--data=parts", *flags]) == 0
    out = capsys.readouterr().out
    assert "split: given" in out and "test   3 cat, 3 dog" in out
    assert main(["train", "--data=parts", "--split=stratified", *flags]) == 0
    assert sorted(path.name for path in Path("results/parts").iterdir()) == ["given", "stratified"]
    image(Path("parts/test/cat/again.png"), 0)
    (Path("parts/test/cat/again.png")).write_bytes(Path("parts/train/cat/0.png").read_bytes())
    assert main(["train", "--data=parts", *flags]) == 0
    assert "1 image left out (1 of train)" in capsys.readouterr().out
