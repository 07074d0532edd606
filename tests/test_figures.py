"""Every figure has the same frame, and shows names as they stand."""

import warnings

import pytest
from matplotlib.font_manager import FontEntry, fontManager
from PIL import Image

from busfast import figures
from busfast.figures import add_legend, image_grid, new_figure, save_figure, wrapped


def test_a_frame_has_title_caption_grid_and_no_upper_or_right_spine(tmp_path):
    figure, (left, right) = new_figure("cost in $", "run a_$x$", size=(4, 3), titles=("one", "two"), grid="x")
    left.plot([0, 1], [0, 1], label="one")
    add_legend(left)
    add_legend(right, "below")
    save_figure(figure, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size == (600, 450)
    assert figure.get_suptitle() == r"cost in \$" and left.get_title() == "run a_\\$x\\$\n\n"
    assert [axes.get_title("left") for axes in (left, right)] == ["one", "two"]
    assert not any(axes.spines[side].get_visible() for axes in (left, right) for side in ("top", "right"))
    assert [line.get_visible() for line in (left.get_xgridlines()[0], left.get_ygridlines()[0])] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_a_long_caption_is_wrapped_and_stays_in_the_picture():
    figure, (axes,) = new_figure("Reliability", "IMAGES/kfold-3folds-ensemble/external/UCLM, EXTERNAL set; "
                                 "temperature 1.23; bins of 10 images or more; above: how many")
    figure.draw_without_rendering()
    box = axes.title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and axes.get_title().endswith("how many")


def test_a_caption_breaks_after_semicolons_and_leaves_no_word_alone():
    run = "phantom/stratified-seeds-ensemble, test part"
    assert wrapped(f"{run}; bands: 95%, patients drawn again", 5.8) == f"{run};\nbands: 95%, patients drawn again"
    assert wrapped("a/run; bands: 95%", 5.8) == "a/run; bands: 95%" and wrapped("", 5.8) == ""
    assert wrapped("one two three four five", 1.5) == "one two three\nfour five"


def test_a_grid_of_images_has_no_axes():
    figure, axes = image_grid(2, 3, (1, 2), "three a row")
    assert axes.shape == (2, 3) and not any(one.axison for one in axes.flat)
    assert figure.get_size_inches().tolist() == [3, 4]


@pytest.fixture
def named(monkeypatch):
    """A figure with names of other scripts in its title, legend and ticks; a warning of matplotlib's is an error."""
    monkeypatch.setattr(figures, "_numbered", {})
    figure, (axes,) = new_figure("\u826f\u6027 \u80bf\u7624, Gr\u00f6\u00dfe")
    axes.plot([0, 1], [0, 1], label="\u826f\u6027 \u80bf\u7624 0.93 (0.91)")
    axes.set(yticks=[0, 1], yticklabels=["\u0938\u093e", "\u826f\u6027 \u80bf\u7624"])
    add_legend(axes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield figure, axes


def test_names_that_no_font_here_has_are_numbered_and_said_once(named, tmp_path, capsys, monkeypatch):
    figure, axes = named
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name == "DejaVu Sans"])
    save_figure(figure, tmp_path / "a.png")
    numbers = dict(figures._numbered)
    assert sorted(numbers) == ["\u0938\u093e", "\u826f\u6027 \u80bf\u7624"]
    assert sorted(numbers.values()) == ["name 1", "name 2"]
    chinese = numbers["\u826f\u6027 \u80bf\u7624"]
    assert figure.get_suptitle() == f"{chinese}, Gr\u00f6\u00dfe"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"{chinese} 0.93 (0.91)"]
    assert [text.get_text() for text in axes.get_yticklabels()] == [numbers["\u0938\u093e"], chinese]
    assert f"'\u826f\u6027 \u80bf\u7624' as {chinese}" in capsys.readouterr().out
    save_figure(figure, tmp_path / "a.png")
    assert capsys.readouterr().out == ""


def test_names_are_shown_in_a_font_that_has_them(named, tmp_path, capsys, monkeypatch):
    figure, axes = named
    font = next(font for font in fontManager.ttflist if font.name == "DejaVu Serif")
    monkeypatch.setattr(fontManager, "ttflist", [
        FontEntry(fname=font.fname, name="Of All Sans", style="normal", weight=400), *fontManager.ttflist])
    of_all = frozenset(range(0x20, 0x3000)) | frozenset(map(ord, "\u826f\u6027\u80bf\u7624"))
    known = figures._characters
    monkeypatch.setattr(figures, "_characters", lambda file: of_all if file == font.fname else known(file))
    figure.set_layout_engine(None), monkeypatch.setattr(figure, "savefig", lambda *_, **__: None)  # it has not, really
    save_figure(figure, tmp_path / "a.png")
    assert figure.get_suptitle().startswith("\u826f\u6027") and capsys.readouterr().out == ""
    assert axes.get_legend().get_texts()[0].get_fontfamily() == ["DejaVu Sans", "Of All Sans"]
