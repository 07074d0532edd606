"""The verbs that need no model: prepare, audit, split, cache. Each prints what it found and which files it wrote."""

import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busfast.cli import parse
from busfast.cli.flags import configure, with_settings
from busfast.errors import UserError, nearest
from busfast.text import MANY
from busfast.yamlfile import yaml_list

if TYPE_CHECKING:
    from busfast.data.table import Table
    from busfast.pipelines.config import Config


def prepare(*, source: str, path: str, out: str = None, copy: bool = False, partial: bool = False,
            columns: str = None, images: str = "", center: str = "", center_tag: str = "", salt: str = "",
            link: str = None, patient_from: str = "", links: str = "follow", frames: str = "",
            pages: str = "", label_delim: str = "") -> str:
    """Makes a data folder (table.csv) from images in other layouts; the originals are not moved or changed.

    Args:
        source: layout of the images: busi, bus_bra, bus_uclm, breast, btxrd (public sets as published), folder (one
            folder per class), csv (a table with any column names), dicom. Several, separated by commas, become one
            table.
        path: folder of each source (for csv also the file), in the same order.
        out: data folder to make. Default: data/SOURCE.
        copy: copy the images into it; otherwise the table refers to where they are (sources.csv).
        partial: accept a public set of which images are missing, and leave out DICOM files that give no image.
        columns: for csv: which column holds what, such as image=file,label=dx,patient=pid; a column of 0 and 1 for each
            class: label=A+B+C; no row of column names: image=1,label=2.
        images: for csv: folder that its paths begin from. Default: the folder of the CSV file.
        center: name of the center, if a source does not give it; or one for each source.
        center_tag: for DICOM: keyword of the tag that names the center, such as InstitutionName.
        salt: for DICOM: a secret from which patient ids are made; the same salt gives the same ids.
        link: for DICOM: file to write, with the DICOM file of each image (which identifies the patient).
        patient_from: for folder and dicom: folder (the one that is not the class), none, or a regular expression that
            is searched in an image's path, with one group: the patient; or two, (?P<patient>...) and (?P<label>...).
            Default: recognized, and asked for where two readings are possible.
        links: follow symbolic links that lead out of the source, or refuse them, in a folder that you do not trust.
        frames: for DICOM: which frames of a clip become images: first, middle, all, or every:N. Default: clips are
            refused.
        pages: which pages of a TIFF, or frames of a GIF, WebP or APNG, become images: first, middle, all, or every:N.
            Default: the first one is used where the file is.
        label_delim: for folder and csv: the character between the labels of an image that has several, as for train.
    """
    sources = source.split(",")
    paths = path.split(",") if len(sources) > 1 else [path]
    centers = center.split(",") if len(sources) > 1 and "," in center else center
    from busfast.data.labels import order_classes
    from busfast.data.prepare import prepare as make
    from busfast.pipelines.config import Config
    from busfast.pipelines.pipeline_file import folder_name

    target = Path(out) if out else Path("data") / "_".join(sources)
    table = make(sources, paths, target, copy=copy, partial=partial, columns=_pairs(columns), images=images,
                 center=centers, center_tag=center_tag, salt=salt, link=link, patient_from=patient_from, links=links,
                 frames=frames, pages=pages, label_delim=label_delim)
    classes = order_classes(table.rows["label"], label_delim)
    if 1 < len(classes) <= MANY and not Path(f"pipelines/{folder_name(target.name)}.yaml").is_file():
        print(f"  train finds the classes. For another order, or fewer, write into pipelines/{folder_name(target.name)}"
              f".yaml: `classes: {yaml_list(classes)}`")
        try:
            Config(classes=classes)
        except UserError as error:
            print(f"  warning: {error}")
    return parse.command("audit", {"data": str(target), "label_delim": label_delim or None}, audit)


@with_settings(("data", "label_delim"), data="the phantom")
def audit(*, split: str = None, pipeline: str = None, out: str = None, quarantine: bool = False,
          metadata_only: bool = False, labels: bool = False, run: str = None, **settings: Any) -> str | None:
    """Checks a set of images for errors; writes audit.csv, and audit.html with the pictures.

    Finds broken files, duplicates and near-duplicates, conflicting labels and patients under several labels or centers,
    and measures how well the center predicts the class. The set, which may be a public one as published, is not
    changed.

    Args:
        settings: where the images are.
        split: your own lists to check for leaks, as for train.
        pipeline: pipeline file that names the classes. Default: the one named after the data folder.
        out: folder for audit.csv and audit.html. Default: audit/ in the data folder if that is below data/, else
            data/about-NAME/audit.
        quarantine: also write a table without the broken images, data/NAME-clean/table.csv.
        metadata_only: read only the table; no image is opened.
        labels: instead, train the folds of a k-fold split and list the labels that they contradict: labels.csv and
            labels.html. Needs cleanlab: pip install cleanlab.
        run: the same from folds that are trained already: the name of one, or of their group.
    """
    if labels or run:
        _audit_labels(labels, run, out, {"split": split, "quarantine": quarantine, "metadata-only": metadata_only},
                      {"pipeline": pipeline} | settings)
        return None
    _, config = configure(pipeline, **settings)
    from busfast.data.audit import audit_images, format_groups
    from busfast.data.audit_page import format_audit, write_audit
    from busfast.data.duplicate_pairs import AUDIT_FILE, read_decisions
    from busfast.data.external_splits import read_lists
    from busfast.data.leaks import find_leaks, format_leaks
    from busfast.data.paths import claim_home, home_of
    from busfast.data.quarantine import clean_folder, write_clean
    from busfast.data.split import SPLITS

    if split and not os.path.exists(split) and (made := nearest(split, SPLITS, cutoff=0.8)):
        raise UserError(f"--split={split}: audit checks lists of your own, by their path; in a split that busfast "
                        f"makes, such as {made}, patients and duplicates are on one side. To write it to a file: "
                        f"python -m busfast split --split={made}")
    table, config = _read(config)
    folder = Path(out) if out else home_of(table.file) / Path(AUDIT_FILE).parent
    clean = clean_folder(home_of(table.file)) if quarantine else None
    # Of several labels, each combination is listed.
    classes = tuple(sorted(set(table.rows["label"]))) if config.label_delim else config.classes
    lists = read_lists(split, table, classes) if split else None
    decisions = read_decisions(folder / "audit.csv")
    found, duplicates = audit_images(table, classes, decisions=decisions, metadata_only=metadata_only)
    leaks = None if lists is None else (split, find_leaks(lists, duplicates))

    print(f"audit of {table.root}: {len(table)} images, {format_groups(found.table)}")
    print(format_audit(found))
    if leaks:
        unseen = int(found.findings["finding"].isin(("missing", "unreadable")).sum())
        if unseen or metadata_only:
            print(f"  {unseen or len(table)} images were not or could not be read: their duplicates are unknown")
        print(f"leaks of {split}: {format_leaks(leaks[1]) or 'none'}" + (" on two sides" if len(leaks[1]) else ""))
    if not out:
        claim_home(table.file)
    for path in write_audit(found, folder, leaks):
        print(f"wrote {path}")
    if clean:
        path, left = write_clean(found, clean)
        print(f"wrote {path}: {len(table) - left} images; {left} left out, see left_out.csv there")
        settings["data"] = str(path.parent)
    return parse.command("train", settings | {"pipeline": pipeline, "split": split}, audit)


@with_settings(("data", "label_delim", "holdout", "folds", "seed", "valid_share", "test_share"), data="the phantom")
def split(*, split: str = "stratified", pipeline: str = None, out: str = None, overwrite: bool = False,
          metadata_only: bool = False, **settings: Any) -> str:
    """Splits a set of images and writes files that you can edit and that train reads.

    All images of a patient, and all duplicates of an image, are in the same part.
    Next: python -m busfast train --split=FILE

    Args:
        settings: the images and how to split them.
        split: stratified, center_holdout, leave_one_center_out, kfold, or given or original (the folders or the column
            that the images came with).
        pipeline: pipeline file that gives classes, holdout, folds and seed. Default: the one named after the data
            folder.
        out: folder for the files. Default: splits/ in the data folder if that is below data/, else
            data/about-NAME/splits.
        overwrite: replace existing files that differ.
        metadata_only: use only the table; no image is opened, and duplicates are not found.
    """
    _, config = configure(pipeline, split_seed=settings.get("seed"), **settings)
    from busfast.data.generators import generate
    from busfast.data.paths import claim_home, home_of
    from busfast.data.split import ALIASES, SPLITS
    from busfast.data.split_file import write_splits
    from busfast.errors import choose
    from busfast.pipelines.read_images import read_images
    from busfast.pipelines.splits import open_table, split_data, split_images

    split = ALIASES.get(split, split)
    choose("split", split, [*SPLITS, *ALIASES])
    if metadata_only:
        table, config = _read(config)
    else:
        generate(config.source, config.data)
        table, config = read_images(config)
        open_table(config, table)
    folder = Path(out) if out else home_of(table.file) / "splits"
    runs = split_data(table, None, config, split) if metadata_only else \
        split_images(table, config, [split], heed=False)
    if not out:
        claim_home(table.file)
    written = write_splits(runs, folder, overwrite)
    for path, state in written:
        print(f"{state} {path}")
    given = {"data": settings.get("data"), "label_delim": settings.get("label_delim"), "pipeline": pipeline}
    return parse.command("train", given | {"split": str(written[0][0])}, audit)


@with_settings(("data", "label_delim", "size"), data="none, as train fills the cache itself")
def cache(*, pipeline: str = None, folder: str = None, clear: bool = False, **settings: Any) -> None:
    """Lists the cache of decoded images and fingerprints, clears it, or fills it with the images of --data.

    Everything in it can be made again from the images. It holds their pixels, so it is as private as they are.

    Args:
        settings: images to decode now.
        pipeline: pipeline file that says how to decode them. Default: the one named after the data folder.
        folder: cache folder, as given to train by --cache. Default: this user's cache folder.
        clear: delete the whole cache (with --folder: only that folder's).
    """
    from busfast.files import cache_folder
    from busfast.pipelines.cache import Cache, clear_cache, list_caches, pixels_folder

    if settings.get("data") and clear:
        raise UserError("--data fills the cache and --clear empties it: give one of them.")
    if settings.get("data"):
        from busfast.pipelines.image import ImagePipeline
        from busfast.pipelines.read_images import read_images

        table, config = read_images(configure(pipeline, **settings)[1])
        image = ImagePipeline(config.size, config.resize, config.channels, width=config.width)
        Cache(folder or "auto", table.root, list(map(str, table.image_paths())), config.threads).pixels(image)
    elif pipeline or settings:
        raise UserError("--pipeline and --size say how to decode the images of --data=FOLDER: give that, too.")
    base = Path(folder) if folder else pixels_folder()
    prints = [] if folder else sorted(cache_folder().glob("fingerprints-*.npz"))
    files = [] if folder else [*prints, *cache_folder().glob("duplicates-*.npz")]
    found = list_caches(base)
    for row in found:
        used = date.fromtimestamp(row["used"])
        print(f"{row['mb']:10,.1f} MB  {row['size']:4} px  used {used}  pixels of {row['images']}")
    if prints:
        print(f"{sum(path.stat().st_size for path in files) / 1e6:10,.1f} MB  fingerprints of {len(prints)} folders")
    print(f"in {base if folder else cache_folder()}" + ("" if found or prints else ": nothing"))
    if clear:
        for row in found:
            clear_cache(row["folder"])
        for path in files:
            path.unlink(missing_ok=True)
        print("removed")


def _audit_labels(labels: bool, run: str | None, out: str | None, others: dict[str, Any],
                  settings: dict[str, Any]) -> None:
    """Audits labels by the folds of --run, or trains them."""
    from busfast.cli.train import train_folds
    from busfast.imports import require_package
    from busfast.results.label_audit import audit_labels, find_folds

    if run:
        others |= settings | {"labels": labels}
    if wrong := [flag for flag, value in others.items() if value]:
        raise UserError(f"--{wrong[0]} does not apply to --{'run' if run else 'labels'}. Leave it out.")
    require_package("cleanlab", "An audit of labels needs cleanlab", "pip install cleanlab")
    audit_labels(find_folds(run) if run else train_folds(**settings), out)


def _pairs(columns: str | None) -> dict[str, str] | None:
    """Parses `image=file,label=dx`."""
    if columns is None:
        return None
    pairs = {}
    for word in columns.split(","):
        name, equals, column = word.partition("=")
        if not (name and equals and column) or name in pairs:
            raise UserError(f"--columns={columns}: '{word}' is not NAME=COLUMN. Write, for instance, "
                            "--columns=image=file,label=dx.")
        pairs[name] = column
    return pairs


def _read(config: "Config") -> "tuple[Table, Config]":
    """Reads the table of a set of images, which may be missing, or of a public set as published, with all labels; finds
    its classes."""
    from busfast.data.generators import generate
    from busfast.data.labels import order_classes
    from busfast.data.open_data import DIRECT, read_data
    from busfast.data.sources import guess_source, read_source
    from busfast.pipelines.read_images import refuse_delimiters, unify_labels

    folder = Path(config.data)
    generate(config.source, folder)
    source = guess_source(folder) if os.path.isdir(folder) and not (folder / "table.csv").is_file() else ""
    if source and source not in DIRECT:
        table = replace(read_source(source, folder, files=False, classes=config.classes), file=folder / "table.csv")
    else:
        table = read_data(folder, config.classes, files=False, other_labels=True, label_delim=config.label_delim)
    print(f"data: {len(table)} images in {table.root}")
    for note in table.notes:
        print(f"  {note}")
    if config.label_delim:
        table = unify_labels(table, config.label_delim)
    elif not config.classes:
        refuse_delimiters(table)
    classes = config.classes or order_classes(table.rows["label"], config.label_delim)
    return table, replace(config, classes=classes)
