"""What the table promises: every row that is trained on is sound, and every refusal says where it went wrong.

Covers busfast/data/paths.py, too.
"""

import pytest

from busfast.data.table import find_table, read_table
from busfast.errors import UserError

FILES = ("a.png", "b.png", "c, right.png", "mask.png")


@pytest.fixture
def make(tmp_path):
    """Writes a data folder with the given table (text or bytes) and empty image files; returns the folder."""
    def write(table):
        for name in FILES:
            (tmp_path / name).touch()
        (tmp_path / "table.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        return tmp_path
    return write


def refusal(data):
    with pytest.raises(UserError) as caught:
        read_table(data)
    return str(caught.value)


def test_columns_that_are_not_there_are_filled_with_nothing(make):
    table = read_table(make("image,label\na.png,benign\nb.png,normal\n"))
    assert list(table.rows.columns) == ["image", "label", "center", "patient", "device", "mask"]
    assert table.rows.to_numpy().tolist() == [["a.png", "benign", "", "", "", ""], ["b.png", "normal", "", "", "", ""]]


def test_root_is_the_folder_of_the_table(make):
    folder = make("image,label\na.png,benign\n")
    assert read_table(folder).root == read_table(folder / "table.csv").root == folder


def test_a_csv_file_of_any_name_can_be_given_directly(make):
    folder = make("image,label\na.png,benign\nb.png,normal\n")
    (folder / "half.CSV").write_text("image,label\na.png,benign\n", encoding="utf-8")
    assert find_table(folder / "half.CSV") == folder / "half.CSV"
    assert list(read_table(folder / "half.CSV").rows["image"]) == ["a.png"]


def test_values_are_kept_as_text_without_the_space_around_them(make):
    table = read_table(make("image , label,patient,center\n a.png,benign ,007,NA\n"))
    assert table.rows.iloc[0].to_dict() == {"image": "a.png", "label": "benign", "patient": "007", "center": "NA",
                                       "device": "", "mask": ""}


def test_other_columns_are_kept_as_they_stand(make):
    table = read_table(make("age,image,label,note\n051,a.png,benign,\n"))
    assert list(table.rows.columns) == ["age", "image", "label", "note", "center", "patient", "device", "mask"]
    assert table.rows["age"].tolist() == ["051"]
    assert table.rows["note"].tolist() == [""]


@pytest.mark.parametrize("table", [
    pytest.param("\ufeffimage,label\na.png,benign\n", id="byte order mark"),
    pytest.param("image,label\r\na.png,benign\r\n", id="Windows line ends"),
    pytest.param("image,label\na.png,benign", id="no last line end"),
    pytest.param('"image","label"\n"a.png","benign"\n', id="everything quoted"),
])
def test_the_same_table_written_otherwise_reads_the_same(make, table):
    table = read_table(make(table))
    assert table.rows[["image", "label"]].to_numpy().tolist() == [["a.png", "benign"]]


def test_a_quoted_cell_may_contain_commas_and_quotes(make):
    table = read_table(make('image,label,note\n"c, right.png",benign,"a ""cyst"", small"\n'))
    assert table.rows[["image", "note"]].to_numpy().tolist() == [["c, right.png", 'a "cyst", small']]


def test_the_labels_are_those_of_the_given_classes(make):
    folder = make("image,label\na.png,cyst\n")
    assert read_table(folder, ("solid", "cyst")).rows["label"].tolist() == ["cyst"]
    assert "Choose from: normal, benign, malignant" in refusal(folder)


def test_a_missing_folder_is_named(tmp_path):
    assert f"'{tmp_path / 'nothing'}'" in refusal(tmp_path / "nothing")


def test_a_folder_without_a_table_is_named_with_the_columns_it_needs(tmp_path):
    message = refusal(tmp_path)
    assert f"'{tmp_path}' has no table.csv" in message
    assert "image, label" in message


def test_a_file_that_is_no_table_is_refused(make):
    folder = make("image,label\na.png,benign\n")
    assert "a.png" in refusal(folder / "a.png")


@pytest.mark.parametrize(("table", "expected"), [
    pytest.param("image,center\na.png,x\n", ["row 1", "column 'label' is missing", "image, center"], id="no label"),
    pytest.param("file,label\na.png,benign\n", ["row 1", "column 'image' is missing", "file, label"], id="no image"),
    pytest.param("", ["is empty", "needed: image, label"], id="empty file"),
    pytest.param("image,label,label\na.png,benign,benign\n", ["row 1", "'label'", "two columns"], id="column twice"),
    pytest.param("image,label\n", ["header but no rows"], id="header only"),
    pytest.param("image,label\na.png,benign\n\nb.png,benign\n", ["row 3", "empty"], id="blank line"),
    pytest.param("image,label\na.png,benign\n , \nb.png,benign\n", ["row 3", "empty"], id="blank cells"),
    pytest.param("image,label\na.png,benign\nb.png\n", ["row 3", "1 cells", "2 columns"], id="short row"),
    pytest.param("image,label\na.png,benign,x\n", ["row 2", "3 cells", "2 columns"], id="long row"),
    pytest.param("image,label\na.png,\n", ["row 2", "column label", "empty"], id="no label in the cell"),
    pytest.param("image,label\n,benign\n", ["row 2", "column image", "empty"], id="no image in the cell"),
    pytest.param("image,label\na.png,bening\n", ["row 2", "column label", "'bening'", "mean 'benign'"],
                 id="unknown label"),
    pytest.param("image,label\na.png,benign\nz.png,benign\n", ["row 3", "column image", "no file 'z.png'"],
                 id="image not there"),
    pytest.param("image,label\nA.PNG,benign\n", ["row 2", "no file 'A.PNG'", "Did you mean 'a.png'?", "prepare"],
                 id="other capitals"),
    pytest.param("image,label,mask\na.png,benign,z.png\n", ["row 2", "column mask", "no file 'z.png'"],
                 id="mask not there"),
    pytest.param("image,label\n.,benign\n", ["row 2", "column image", "no file '.'"], id="folder as an image"),
    pytest.param(f"image,label\n{'a' * 300}.png,benign\n", ["row 2", "column image", "no file 'aaa"],
                 id="name too long for a file"),
    pytest.param("image,label\na\0.png,benign\n", ["row 2"], id="NUL byte"),
    pytest.param('image,label,note\na.png,benign,"x\nb.png,benign,y\n', ["row 2"], id="quote never closed"),
])
def test_an_unsound_table_is_refused_by_file_row_and_value(make, table, expected):
    folder = make(table)
    message = refusal(folder)
    for part in (str(folder / "table.csv"), *expected):
        assert part in message


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("value", ["/etc/hosts", "C:/images/a.png", r"C:\images\a.png", r"\images\a.png",
                                   r"\\server\share\a.png"])
def test_an_absolute_path_is_refused_even_if_it_exists(make, column, value):
    values = {"image": "a.png", "mask": "mask.png", column: value}
    message = refusal(make(f"image,label,mask\n{values['image']},benign,{values['mask']}\n"))
    assert f"table.csv, row 2, column {column}: '{value}' is an absolute path" in message


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("value", ["../a.png", "sub/../a.png", r"..\a.png", r"sub\..\..\a.png", "sub/.."])
def test_a_path_that_climbs_out_is_refused_even_if_it_exists(make, column, value):
    values = {"image": "a.png", "mask": "mask.png", column: value}
    folder = make(f"image,label,mask\n{values['image']},benign,{values['mask']}\n")
    (folder / "sub").mkdir()
    (folder.parent / "a.png").touch()
    assert f"table.csv, row 2, column {column}: '{value}' leads out of the data folder" in refusal(folder)


@pytest.mark.parametrize("again", ["a.png", "./a.png", " a.png", ".//./a.png"])
def test_an_image_listed_twice_is_refused_however_it_is_spelt(make, again):
    message = refusal(make(f"image,label\na.png,benign\nb.png,benign\n{again},malignant\n"))
    assert "table.csv, row 4, column image: 'a.png' is already in row 2" in message


def test_a_mask_may_serve_two_images(make):
    table = read_table(make("image,label,mask\na.png,benign,mask.png\nb.png,benign,mask.png\n"))
    assert table.rows["mask"].tolist() == ["mask.png", "mask.png"]


def test_a_label_in_other_capitals_or_with_spaces_is_mapped_and_said(make):
    table = read_table(make("image,label\na.png, Benign\nb.png,BENIGN \nmask.png,Benign\n"))
    assert table.rows["label"].tolist() == ["benign"] * 3
    assert table.notes == ("label 'Benign' in 2 rows is read as 'benign'",
                           "label 'BENIGN' in 1 row is read as 'benign'")
    labels = read_table(make("image,label\na.png,Clear cell\n"), ("clear_cell", "other")).rows["label"]
    assert labels.tolist() == ["clear_cell"]


def test_windows_paths_are_read_and_said(make):
    folder = make("image,label,mask\nsub\\a.png,benign,sub\\b.png\n")
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "sub" / name).touch()
    table = read_table(folder)
    assert table.rows.loc[0, ["image", "mask"]].tolist() == ["sub/a.png", "sub/b.png"]
    assert table.notes == ("2 paths with \\ read with /",)


def test_a_table_of_another_writing_is_read_and_said(make):
    table = read_table(make("image;label;center\r\na.png;benign;Köln\r\n".encode("latin-1")))
    assert table.rows.loc[0, ["image", "center"]].tolist() == ["a.png", "Köln"]
    assert [word in " ".join(table.notes) for word in ("Latin-1", "semicolons")] == [True, True]


def test_without_files_only_the_table_is_read(make):
    table = read_table(make("image,label,mask\ngone.png,benign,gone too.png\n"), files=False)
    assert table.rows["image"][0] == "gone.png"


@pytest.mark.parametrize("link", ["a link.png", "linked/b.png"])
def test_a_symbolic_link_out_of_the_folder_is_followed_and_said(make, tmp_path_factory, link):
    folder, outside = make(f"image,label\n{link},benign\n"), tmp_path_factory.mktemp("outside")
    for name in ("a.png", "b.png"):
        (outside / name).touch()
    (folder / "a link.png").symlink_to(outside / "a.png")
    (folder / "linked").symlink_to(outside)
    table = read_table(folder)
    assert table.image_paths() == [folder / link]
    assert table.notes == (f"1 path led out of {folder} by symbolic links, which are followed, such as {link} -> "
                           f"{outside / ('b.png' if '/' in link else 'a.png')}",)


def test_a_symbolic_link_within_the_folder_and_to_the_folder_is_followed(make, tmp_path_factory):
    folder = make("image,label\nlink.png,benign\n")
    (folder / "link.png").symlink_to(folder / "a.png")
    other = tmp_path_factory.mktemp("other") / "set"
    other.symlink_to(folder)
    assert read_table(other).rows["image"].tolist() == ["link.png"]


def test_images_may_lie_where_sources_csv_says(make, tmp_path_factory):
    folder, outside = make("image,label\nbusi/x.png,benign\na.png,benign\n"), tmp_path_factory.mktemp("outside")
    (outside / "x.png").touch()
    (folder / "sources.csv").write_text(f"name,folder\nbusi,{outside}\nempty,\n")
    assert read_table(folder).image_paths() == [outside / "x.png", folder / "a.png"]
    (folder / "sources.csv").write_text("name,folder\nbusi,moved away\n")
    assert "sources.csv, row 2, column folder: there is no folder 'moved away'" in refusal(folder)
    (folder / "sources.csv").write_text(f"name,folder\nbusi,{outside}\nbusi,{outside}\n")
    assert "sources.csv, row 3, column name: 'busi' occurs twice" in refusal(folder)


def test_rows_are_counted_right_after_a_cell_of_several_lines(make):
    message = refusal(make('image,label,note\na.png,benign,"one\ntwo\nthree"\nb.png,bening,\n'))
    assert "table.csv, row 3, column label: Unknown label 'bening'" in message


def test_other_labels_may_stay_where_that_is_asked_for_and_are_said(make):
    table = read_table(make("image,label\na.png,cyst\nb.png,Benign\nmask.png,cyst\n"), other_labels=True)
    assert table.rows["label"].tolist() == ["cyst", "benign", "cyst"]
    assert "labels other than the classes normal, benign, malignant: 'cyst' in 2 rows" in table.notes
