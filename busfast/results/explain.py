"""Where a model looks: Grad-CAM, compared with lesion masks and with an untrained model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.special import softmax
from scipy.stats import spearmanr

from busfast.csvfile import write_csv
from busfast.data.images import load_pixels
from busfast.data.open_data import find_data
from busfast.data.split_file import check_unchanged, read_split
from busfast.errors import UserError
from busfast.figures import STYLES, image_grid, plain, save_figure, wrapped
from busfast.files import make_folder
from busfast.inference.gradcam import PLACE_IMAGES, Explainer, NoMaps, explain_images
from busfast.inference.run_model import load_run_model
from busfast.inference.stream import predict_logits
from busfast.models.arch import make_timm
from busfast.results.intervals import intervals
from busfast.results.predictions import read_parts, read_predictions, refuse_stale, require_single_label
from busfast.results.printing import BLANK, LIKENESS, describe_blank
from busfast.results.probes import compare_parts, draw_sample, predict_pixels, probe_run, read_pixels
from busfast.results.written import FORMAT
from busfast.text import MANY
from busfast.training.runs import Run

CASES = 3  # of each class, right and wrong, in the gallery, of the first `MANY` classes
EVIDENCE, COVER = STYLES[1]["color"], 0.6  # color of a map, and how much it hides where it is brightest
SANITY_IMAGES = 30  # that are compared with an untrained model


def explain_run(run: Run, **flags) -> list[Path]:
    """Explains a run that `evaluate` has predicted: a gallery, maps compared with lesion masks, the shortcut probes.

    Of a model without maps, localisation.csv says why, and there is no gallery.

    Args:
        run: an evaluated run.
        flags: bs, device and threads of `load_model`.

    Returns:
        explain.png, localisation.csv and probes.csv, written into the run's folder.

    Raises:
        UserError: there are no predictions, or they are of other weights, or images are missing or changed.
    """
    config, record = run.read_config()
    require_single_label(config, "explain")
    refuse_stale(run)
    predictions = read_predictions(run, config.classes)
    parts = read_parts(run, find_data(config.data).parent)
    check_unchanged(run.name, parts)
    masks = dict(zip(parts.rows["image"], parts.rows["mask"], strict=True))
    table = predictions.assign(mask=predictions["image"].map(masks))
    learn = load_run_model(run.best_weights(), config, record, **flags)
    cases = choose_cases(table, config.classes)
    masked = table[(table["mask"] != "") & ~table.index.isin(cases.index)]
    shown = pd.concat([cases, draw_sample(masked, config.seed)])
    pixels, masks = read_pixels(learn, shown, parts.root)
    targets = np.array([config.classes.index(name) for name in shown["predicted"]])
    files = [run.results / name for name in ("explain.png", "localisation.csv", "probes.csv")]
    try:
        maps, note = explain_images(learn, config.arch, pixels, targets)
        draw_gallery(cases, pixels, maps, masks, config.classes[:MANY], f"{run.name}\n{note}".strip(), files[0])
        groups = shown["group"].to_numpy()
        measures = localize(maps, masks, groups)
        blank = ~maps.any(axis=(1, 2))
        measures.loc[BLANK] = [*intervals(lambda weights: {BLANK: weights @ blank / weights.sum(1)}, groups).loc[BLANK],
                               len(maps)]
        sanity = check_sanity(learn, config.arch, pixels, targets, maps), min(SANITY_IMAGES, len(pixels))
        measures.loc[LIKENESS, ["estimate", "images"]] = sanity
    except NoMaps as error:
        measures = pd.DataFrame({"estimate": np.nan, "low": np.nan, "high": np.nan, "images": 0},
                                index=[f"No maps: {error}"])
        files.pop(0).unlink(missing_ok=True)  # of an older busfast
    write_csv(measures.reset_index(names="measure"), files[-2], float_format=FORMAT)
    probes = probe_run(learn, parts, config.classes, config.seed)
    split = read_split(run.results / "split.csv", parts.root)
    probes.loc[len(probes)] = compare_parts(learn, split, record["loader"])
    write_csv(probes, files[-1], float_format=FORMAT)
    return files


def explain_inputs(run: Run, names: list[str], paths: list[Path], folder: Path, **flags) -> list[Path]:
    """Explains the user's images: a picture for each, beside its map for the predicted class. One that cannot be
    read is left out, and named.

    Args:
        run: a trained run.
        names, paths: of the images, see `list_inputs`.
        folder: of the pictures; created if missing, existing pictures are replaced.
        flags: bs, device and threads of `load_model`.

    Raises:
        UserError: none can be read, or the model has no maps.
    """
    config, record = run.read_config()
    require_single_label(config, "explain")
    learn = load_run_model(run.best_weights(), config, record, **flags)
    logits, reasons = predict_logits(learn, paths)
    for name, reason in zip(names, reasons, strict=True):
        if reason:
            print(f"left out: {name} cannot be read: {reason}")
    kept = [number for number, reason in enumerate(reasons) if not reason]
    if not kept:
        raise UserError(f"{names[0]} cannot be read: {reasons[0]}. None of the {len(names)} can be. "
                        "Name other images.")
    paths, logits = [paths[number] for number in kept], logits[kept]
    pixels = [load_pixels(path, *learn.dls.valid.image.fit) for path in paths]
    maps, note = explain_images(learn, config.arch, pixels, logits.argmax(1))
    make_folder(folder)
    files = []
    for number, path in enumerate(paths):
        shares = softmax(logits[number])
        called = f"{config.classes[shares.argmax()]} ({shares.max():.2f})"
        title = f"{path.name}: {called}; research only, not a medical device\n{note}".strip()
        figure, (row,) = image_grid(1, 2, (3, 3.3), "\n".join(wrapped(line, 5.5) for line in title.splitlines()))
        for axes, heatmap in zip(row, (None, maps[number]), strict=True):
            _show(axes, pixels[number], heatmap)
        files.append(folder / f"{number + 1:04}-{path.stem}.png")
        save_figure(figure, files[-1])
    if why := describe_blank(int((~maps.any(axis=(1, 2))).sum()), len(maps)):
        print(why)
    return files


def draw_maps(learn: Learner, arch: str, images: Sequence[str | Path], columns: int = 3) -> Figure:
    """Draws images, each beside its map for the predicted class.

    Args:
        learn: from `run_learner` or `make_learner`.
        arch: the model's timm name.
        images: files, no more than fit into a batch.
        columns: images per row.

    Returns:
        A figure, which a notebook shows.

    Raises:
        UserError: the model has no maps.
    """
    image = learn.dls.valid.image
    pixels, reference = ([load_pixels(path, *image.fit) for path in paths]
                         for paths in (images, learn.dls.valid_ds.items["image"][:PLACE_IMAGES]))
    shares = softmax(predict_pixels(learn, pixels), axis=1)
    maps = Explainer(learn.model, arch, image, learn.dls.device, reference).explain(pixels, shares.argmax(1))
    figure, grid = image_grid(-(-len(pixels) // columns), 2 * columns, (1.8, 2))
    grid = grid.ravel()
    for number, share in enumerate(shares):
        for axes, heatmap in zip(grid[2 * number:2 * number + 2], (None, maps[number]), strict=True):
            _show(axes, pixels[number], heatmap)
        called = f"predicted {learn.dls.vocab[share.argmax()]} ({share.max():.2f})"
        grid[2 * number].set_title(plain(wrapped(called, 1.8)), fontsize=8)
    return figure


def _show(axes, pixels: np.ndarray, heatmap: np.ndarray | None = None) -> None:
    """Draws a resized image, and a map over it: the more evidence, the less of the image shows through. A map that is
    zero everywhere leaves the image as it is, which is said above it."""
    axes.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
    if heatmap is not None:
        axes.imshow(color_evidence(heatmap))
        if not heatmap.any():
            axes.set_title("no color: nothing here counted for it", fontsize=7)


def color_evidence(heatmap: np.ndarray) -> np.ndarray:
    """Returns a map, (H, W), from 0 to 1, as a layer over its image, (H, W, 4): one color, denser for more evidence."""
    return np.dstack([np.broadcast_to(to_rgb(EVIDENCE), (*heatmap.shape, 3)), COVER * heatmap])


def localize(maps: np.ndarray, masks: Sequence[np.ndarray | None], groups: np.ndarray) -> pd.DataFrame:
    """Compares maps with lesion masks.

    Args:
        maps: (n, S, S).
        masks: bool, (S, S) each; images whose mask is None or empty are skipped.
        groups: (n,), of patients.

    Returns:
        Rows pointing (share of images whose brightest point lies in the lesion), energy (share of the map inside it),
        iou (with as many of the map's brightest pixels as the lesion has), area (the lesion's share of the image, which
        is energy by chance) and pointing by chance (share of the other images' lesions that have this brightest point:
        maps that are bright where lesions usually are point well), with estimate, low, high and images.

    Source:
        Pointing game: Zhang et al. 2018 (arXiv 1608.00507).
    """
    rows = [number for number, mask in enumerate(masks) if mask is not None and mask.any()]
    if not rows:
        return pd.DataFrame(columns=["estimate", "low", "high", "images"])
    values, lesions = [], np.sum([masks[number] for number in rows], axis=0)
    for number in rows:
        heatmap, mask = maps[number], masks[number]
        peak = np.unravel_index(heatmap.argmax(), heatmap.shape)
        bright = np.zeros(mask.size, bool)
        bright[np.argsort(heatmap.ravel())[-mask.sum():]] = True
        bright = bright.reshape(mask.shape)
        values.append([mask[peak] and heatmap.max() > 0,
                       heatmap[mask].sum() / heatmap.sum() if heatmap.sum() > 0 else 0.0,
                       (bright & mask).sum() / (bright | mask).sum(), mask.mean(),
                       (lesions[peak] - mask[peak]) / max(len(rows) - 1, 1) * (heatmap.max() > 0)])
    values = np.array(values, float)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = weights @ values / weights.sum(1, keepdims=True)
        return dict(zip(("pointing", "energy", "iou", "area", "pointing by chance"), means.T, strict=True))

    return intervals(measure, groups[rows]).assign(images=len(rows))


def check_sanity(learn: Learner, arch: str, pixels: Sequence[np.ndarray], targets: np.ndarray,
                 maps: np.ndarray) -> float:
    """Returns the mean rank correlation of the maps with those of the same model with random weights.

    Near 0 the maps depend on what was learned; near 1 they show only the edges of the image.

    Source:
        Adebayo et al. 2018, "Sanity checks for saliency maps" (arXiv 1810.03292).
    """
    trained = learn.model
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            learn.model = make_timm(arch, learn.dls.valid.image.sides, num_classes=len(learn.dls.vocab)).to(
                learn.dls.device)
        others, _ = explain_images(learn, arch, pixels[:SANITY_IMAGES], targets[:SANITY_IMAGES])
    finally:
        learn.model = trained
    # Every eighth pixel, since maps have fewer cells. An empty map is unlike any other; two empty ones are skipped.
    pairs = [(a[::8, ::8].ravel(), b[::8, ::8].ravel()) for a, b in zip(maps, others, strict=False)]
    correlations = [spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else 0.0 for a, b in pairs
                    if np.ptp(a) or np.ptp(b)]
    return float(np.mean(correlations)) if correlations else float("nan")


def choose_cases(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Returns right and wrong cases of each class: surest of each center, then the next; at most one per patient."""
    sure = predictions[[f"p_{name}" for name in classes]].max(axis=1)
    table = predictions.assign(sure=sure, right=predictions["predicted"] == predictions["label"])
    table = table.sort_values("sure", ascending=False).drop_duplicates(["label", "right", "group"])
    table = table.assign(turn=table.groupby(["label", "right", "center"]).cumcount())
    table = table.sort_values(["turn", "sure"], ascending=[True, False])
    return pd.concat([table[(table["label"] == name) & (table["right"] == right)].head(CASES)
                      for name in classes[:MANY] for right in (True, False)])


def draw_gallery(cases: pd.DataFrame, pixels: Sequence[np.ndarray], maps: np.ndarray, masks: Sequence,
                 classes: Sequence[str], caption: str, path: Path) -> None:
    """Draws the cases: two rows per class, the images and below them the same with their maps; right ones at the left
    and wrong ones at the right."""
    of_cases = range(len(cases))  # the first of pixels, maps and masks
    outlined = [masks[number] is not None and bool(masks[number].any()) for number in of_cases]
    meanings = ["orange: evidence", *(["white line: lesion mask"] if any(outlined) else []),
                describe_blank(sum(not maps[number].any() for number in of_cases), len(cases))]
    figure, grid = image_grid(2 * len(classes), 2 * CASES, (2.1, 2.3), "Surest right (left) and wrong (right) cases of "
                              "each class; below each: Grad-CAM for the predicted class\n"
                              f"({'; '.join(filter(None, meanings))}); {caption}")
    for number, (_, case) in enumerate(cases.iterrows()):
        row = list(classes).index(case["label"])
        alike = cases[(cases["label"] == case["label"]) & (cases["right"] == case["right"])]
        image, axes = grid[2 * row:2 * row + 2, (0 if case["right"] else CASES) + list(alike.index).index(case.name)]
        _show(image, pixels[number])
        _show(axes, pixels[number], maps[number])
        if outlined[number]:
            axes.contour(masks[number], [0.5], colors="white", linewidths=1)
        lines = (f"{case['label']}, {case['center'] or 'no center'}",
                 f"predicted {case['predicted']} ({case['sure']:.2f})" + ("" if case["right"] else ", WRONG"))
        image.set_title("\n".join(plain(wrapped(line, 2.6)) for line in lines), fontsize=7)  # 2.1 inches of small print
    save_figure(figure, path)
