"""Every figure has the same frame, and shows names as they stand."""

from PIL import Image

from busfast.figures import add_legend, image_grid, new_figure, save_figure


def test_a_frame_has_title_caption_grid_and_no_upper_or_right_spine(tmp_path):
    figure, (left, right) = new_figure("cost in $", "run a_$x$", size=(4, 3), columns=2, grid="x")
    left.plot([0, 1], [0, 1], label="one")
    add_legend(left)
    add_legend(right, "below")
    save_figure(figure, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size == (600, 450)
    assert figure.get_suptitle() == r"cost in \$" and left.get_title() == r"run a_\$x\$"
    assert not any(axes.spines[side].get_visible() for axes in (left, right) for side in ("top", "right"))
    assert [line.get_visible() for line in (left.get_xgridlines()[0], left.get_ygridlines()[0])] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_a_grid_of_images_has_no_axes():
    figure, axes = image_grid(2, 3, (1, 2), "three a row")
    assert axes.shape == (2, 3) and not any(one.axison for one in axes.flat)
    assert figure.get_size_inches().tolist() == [3, 4]
