"""The verbs that need no model: prepare, audit, split, cache. Each prints what it found, and what it wrote where."""

import os
from pathlib import Path

from busfast.cli.flags import configure
from busfast.errors import UserError


def prepare(*, source: str, path: str, out: str = None, copy: bool = False, partial: bool = False,
            columns: str = None, center: str = "", center_tag: str = "", salt: str = "", link: str = None) -> None:
    """Makes a data folder (table.csv) of what you have; nothing of it is moved or changed.

    Args:
        source: what it is: busi, bus_bra, bus_uclm, breast, btxrd (public sets as published), folder (of class
            folders), csv (a table with any column names), dicom. Several, separated by commas, become one table.
        path: the folder (for csv also the file) of each source, in the same order.
        out: the data folder to make. Default: data/SOURCE.
        copy: copy the images into it; else the table points to where they are (sources.csv).
        partial: take what is there of a set that is not whole.
        columns: for csv: which of its columns is what, such as image=file,label=dx,patient=pid.
        center: name of the center, where a source does not tell; or one for each source.
        center_tag: for DICOM: keyword of the tag that names the center, such as InstitutionName.
        salt: for DICOM: a secret from which patient ids are made, to get the same ids again.
        link: for DICOM: write this file, which tells the DICOM file of each image (and so the patient).
    """
    sources = source.split(",")
    paths = path.split(",") if len(sources) > 1 else [path]
    centers = center.split(",") if len(sources) > 1 and "," in center else center
    from busfast.data.prepare import prepare as make
    from busfast.data.table import CLASSES

    target = Path(out) if out else Path("data") / "_".join(sources)
    table = make(sources, paths, target, copy=copy, partial=partial, columns=_pairs(columns), center=centers,
                 center_tag=center_tag, salt=salt, link=link)
    labels = set(table["label"])
    if labels != set(CLASSES):
        names = ", ".join([*(name for name in CLASSES if name in labels), *sorted(labels - set(CLASSES))])
        print(f"Its classes are not {', '.join(CLASSES)}. Name them in pipelines/{target.name}.yaml: `data: {target}` "
              f"and `classes: [{names}]`, in the order you want.")
    print(f"Next: python -m busfast audit --data={target}")


def audit(*, data: str = None, split: str = None, pipeline: str = None, out: str = None, quarantine: bool = False,
          metadata_only: bool = False) -> None:
    """Looks for what is wrong with a set of images; writes audit.csv, and audit.html with the pictures.

    Broken files, copies and near-copies, labels that contradict each other, patients under several labels or
    centers, and how well the center predicts the class. Nothing of the set is changed.

    Args:
        data: folder with table.csv and the images (a public set as published will do, too). Default: the phantom.
        split: lists to count the leaks of: as for train.
        pipeline: pipeline file whose classes the table has. Default: the one named after the data folder.
        out: folder for audit.csv and audit.html. Default: audit/ in the data folder if that lies below data/, else
            data/about-NAME/audit.
        quarantine: also write a table without what is broken, data/NAME-clean/table.csv.
        metadata_only: read the table alone; no image is opened.
    """
    _, config = configure(pipeline, data=data)
    from busfast.data.audit import audit_images, format_groups
    from busfast.data.audit_page import format_confounding, write_audit
    from busfast.data.duplicate_pairs import AUDIT_FILE, read_decisions
    from busfast.data.external_splits import read_lists
    from busfast.data.leaks import find_leaks, format_leaks
    from busfast.data.paths import claim_home, home_of
    from busfast.data.quarantine import clean_folder, write_clean

    table = _read(config, metadata_only=True, other_labels=True)
    folder = Path(out) if out else home_of(table.attrs["file"]) / Path(AUDIT_FILE).parent
    clean = clean_folder(home_of(table.attrs["file"])) if quarantine else None
    lists = read_lists(split, table, config.classes) if split else None
    decisions = read_decisions(folder / "audit.csv")
    found, duplicates = audit_images(table, config.classes, decisions=decisions, metadata_only=metadata_only)
    leaks = None if lists is None else (split, find_leaks(lists, duplicates))

    print(f"audit of {table.attrs['root']}: {len(table)} images, {format_groups(found.table)}")
    _print_audit(found)
    print(f"  {format_confounding(found)}")
    if leaks:
        unseen = int(found.findings["finding"].isin(("missing", "unreadable")).sum())
        if unseen or metadata_only:
            print(f"  copies among {unseen or len(table)} images are not known: they were not, or could not be, read")
        print(f"leaks of {split}: {format_leaks(leaks[1]) or 'none'}" + (" on two sides" if len(leaks[1]) else ""))
    if not out:
        claim_home(table.attrs["file"])
    for path in write_audit(found, folder, leaks):
        print(f"wrote {path}")
    if clean:
        path, left = write_clean(found, clean)
        print(f"wrote {path}: {len(table) - left} images; {left} left out, see left_out.csv there")


def split(*, data: str = None, split: str = "stratified", pipeline: str = None, holdout: str = None, folds: int = None,
          seed: int = None, out: str = None, overwrite: bool = False, metadata_only: bool = False) -> None:
    """Splits a set of images and writes the split as files that you may edit and that train reads.

    Patients, and copies of an image, stay on one side. Then: python -m busfast train --split=FILE

    Args:
        data: folder with table.csv and the images. Default: the phantom.
        split: stratified, center_holdout, leave_one_center_out or kfold.
        pipeline: pipeline file that gives classes, holdout, folds and seed. Default: the one named after the data.
        holdout: centers to hold out as the test part of center_holdout, separated by commas.
        folds: number of folds of kfold. Default 5.
        seed: of the split. Default 42.
        out: folder for the files. Default: splits/ in the data folder if that lies below data/, else
            data/about-NAME/splits.
        overwrite: replace files of other content.
        metadata_only: split by the table alone; no image is opened, so copies are not known.
    """
    _, config = configure(pipeline, data=data, holdout=holdout, folds=folds, seed=seed, split_seed=seed)
    from busfast.data.check import check_images
    from busfast.data.paths import claim_home, home_of
    from busfast.data.split import SPLITS
    from busfast.data.split_file import write_splits
    from busfast.errors import choose
    from busfast.pipelines.splits import make_folds, split_data

    choose("split", split, SPLITS)
    table = _read(config, metadata_only)
    folder = Path(out) if out else home_of(table.attrs["file"]) / "splits"
    if not metadata_only:
        make_folds(table, None, config, split)  # what cannot be split is refused before the images are read
    runs = split_data(table, None if metadata_only else check_images(table), config, split)
    if not out:
        claim_home(table.attrs["file"])
    for path, state in write_splits(runs, folder, overwrite):
        print(f"{state} {path}")


def _print_audit(found) -> None:
    """Prints the findings of an audit, counted, and its tables."""
    from busfast.data.audit import count_findings

    lines = count_findings(found.findings)
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        print(f"  {name:{width}}  {text}")
    if not lines:
        print("  nothing was found")
    for frame in (found.confounding.reset_index(), found.sizes, found.flags):
        if len(frame):
            print("\n".join(f"  {line}" for line in frame.to_string(index=False).splitlines()))


def cache(*, data: str = None, pipeline: str = None, size: int = None, folder: str = None, clear: bool = False) -> None:
    """Shows what is kept of images so that they need not be read again, and clears it; or fills it ahead of a run.

    Everything in it can be made anew from the images. It holds their pixels, so it is as private as they are.

    Args:
        data: decode the images of this data folder now; train does it by itself.
        pipeline: decode them as this pipeline file says. Default, the one named after the data folder.
        size: side of the model's input, pixels.
        folder: another folder than this user's cache folder, as given to train by --cache.
        clear: remove it all (with --folder, only what is there).
    """
    import time

    from busfast.data.fingerprint import cache_folder
    from busfast.pipelines.cache import Cache, clear_cache, list_caches, pixels_folder

    if data and clear:
        raise UserError("--data fills the cache and --clear empties it: give one of them.")
    if data:
        from busfast.data.paths import image_paths
        from busfast.data.table import read_table
        from busfast.pipelines.image import ImagePipeline

        _, config = configure(pipeline, data=data, size=size)
        table = read_table(config.data, config.classes)
        image = ImagePipeline(config.size, config.resize, config.channels)
        Cache(folder or "auto", table.attrs["root"], list(map(str, image_paths(table))), config.threads).pixels(image)
    elif pipeline or size:
        raise UserError("--pipeline and --size say how the images of --data=FOLDER are decoded: give that, too.")
    base = Path(folder) if folder else pixels_folder()
    prints = [] if folder else sorted(cache_folder().glob("fingerprints-*.npz"))
    found = list_caches(base)
    for row in found:
        used = time.strftime("%Y-%m-%d", time.localtime(row["used"]))
        print(f"{row['mb']:10,.1f} MB  {row['size']:4} px  used {used}  pixels of {row['images']}")
    if prints:
        print(f"{sum(path.stat().st_size for path in prints) / 1e6:10,.1f} MB  fingerprints of {len(prints)} folders")
    print(f"in {base if folder else cache_folder()}" + ("" if found or prints else ": nothing"))
    if clear:
        for row in found:
            clear_cache(row["folder"])
        for path in prints:
            path.unlink(missing_ok=True)
        print("removed")


def _pairs(columns: str | None) -> dict[str, str] | None:
    """Reads `image=file,label=dx`."""
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


def _read(config, metadata_only: bool, other_labels: bool = False):
    """Reads the table of a data folder, or the table of a public set as it was published."""
    from busfast.data.generators import generate
    from busfast.data.sources import guess_source, read_source, refuse_source
    from busfast.data.table import read_table

    folder = Path(config.data)
    generate(config.source, folder)
    if not metadata_only:
        refuse_source(folder)
    source = guess_source(folder) if os.path.isdir(folder) and not (folder / "table.csv").is_file() else ""
    if source:
        table = read_source(source, folder, files=False, classes=config.classes)
        table.attrs["file"] = str(folder / "table.csv")
    else:
        table = read_table(folder, config.classes, files=not metadata_only, other_labels=other_labels)
    print(f"data: {len(table)} images in {table.attrs['root']}")
    for note in table.attrs["notes"]:
        print(f"  {note}")
    return table
