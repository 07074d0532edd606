"""Which of the folders above an image names its class, and which its patient."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from busfast.data.labels import plain
from busfast.data.table import CLASSES
from busfast.errors import UserError
from busfast.text import counted

# Names that are classes wherever they stand, plain (see `plain`): they tell the class from a patient or a center.
USUAL = {"positive", "negative", "abnormal", "healthy", "control", "controls", "cancer", "noncancer", "tumor",
         "notumor", "covid", "covid19", "noncovid", "noncovid19", "pneumonia", "disease", "diseased", "sick"}
# Folders of a patient's images, or of several patients: magnifications, series, views, grades, parts of a split.
NO_PATIENT = re.compile(r"\d+x|x\d+|(mag|magnification|series?|study|exam|ses|session|visit|scan|view|slice|frame|day|"
                        r"week|month|year|birads|grade|stage|level|type|class|fold|batch|set|part|split|time|t|z|"
                        r"channel)[\s_-]*\d*[a-d]?|\d+ ?(px|bit|mhz|mm|um|µm)|l|r|left|right|cc|mlo|ap|pa|lat|lateral|"
                        r"axial|sagittal|coronal|us|ct|mr|mri|dicom|dcm|png|jpg|jpeg|tif", re.IGNORECASE)
PATIENT = re.compile(r"(patient|pat|case|subject|subj|sub|person|id|pid|p)[\s_.(#-]*\d", re.IGNORECASE)
CENTER = re.compile(r"hospital|cent(er|re)|clinic|site|institut", re.IGNORECASE)
PREFIX = re.compile(r"(study|series|exam|visit|session|scan)\s*\d+[\s_-]+", re.IGNORECASE)  # MURA: study1_positive
IN_NAME = re.compile(r"([^/]+?)[ _-]+\(?[0-9]+\)?\.[^/.]+$")  # P003_02.png
FEW, MANY = 10, 20
MOST = 0.7
NO_CLASSES = ("image", "images", "img", "imgs", "mask", "masks", "annotation", "annotations")


class Roles(NamedTuple):
    """What the folders above images mean."""

    labels: dict[str, str]  # image -> class
    patients: dict[str, str]  # image -> patient; only of images that have one
    notes: list[str]  # for the user


class _Level:
    """The folders at one depth above the images."""

    def __init__(self, paths: Mapping[str, tuple[str, ...]], depth: int):
        self.names = Counter(path[depth] for path in paths.values() if len(path) > depth)
        self.above: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # name -> what it lies in
        for path in paths.values():
            if len(path) > depth:
                self.above[path[depth]].add(path[:depth])
        parts = {name for name in self.names if NO_PATIENT.fullmatch(name)}
        most = MOST * len(self.names)
        self.parts = len(parts) >= most  # of a patient, or of the set
        self.numbered = sum(bool(re.search(r"\d", name)) for name in {*self.names} - parts) >= most
        self.repeated = sum(len(above) > 1 for above in self.above.values()) >= most

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        names = sorted(self.names)
        return ", ".join(f"'{name}'" for name in names[:2]) + (", ..." if len(names) > 2 else "")


def read_levels(root: Path, paths: Mapping[str, tuple[str, ...]], known: Mapping[str, str], classes: Sequence[str] = (),
                patient_from: str = "") -> Roles:
    """Tells the class and the patient of images from the folders above them.

    A level of folders with names that are known as classes, or that repeat under several others, is that of the
    classes; the outermost other level with a number in its names is that of the patients.

    Args:
        root: the set, for messages.
        paths: image (path in `root`) -> the folders above it that may tell, one or more, outermost first.
        known: image -> patient, where something better than a folder tells it.
        classes: the expected classes; none: the usual names.
        patient_from: "" (recognize it, and refuse what has two readings), "folder", "none", or a regular expression
            that is searched in an image's path, with one group for the patient, or the groups patient and label.

    Raises:
        UserError: two readings are possible, or `patient_from` is wrong.
    """
    if patient_from not in ("", "folder", "none"):
        return _by_pattern(root, paths, classes, patient_from)
    mode = patient_from or ("none" if all(known.get(name) for name in paths) else "")
    levels = [_Level(paths, depth) for depth in range(max(map(len, paths.values())))]
    level = _class_level(root, paths, levels, classes, mode)
    labels = {name: PREFIX.sub("", path[level]) for name, path in paths.items()}
    expected = [plain(label) for label in classes or CLASSES]
    for name, path in paths.items():
        _check_class(root, name, labels[name], path, expected)
    found = None if mode == "none" else _patient_level(root, paths, levels, level, labels, mode)
    unused = [depth for depth in range(len(levels)) if depth not in (level, found) and len(levels[depth]) > 1]
    above = [depth for depth in unused if depth < level and (found is None or any(
        map(CENTER.search, levels[depth].names)))]
    if above and not patient_from:
        outer = sorted(levels[above[0]].names)
        sources = ",".join(["folder"] * len(outer))
        paths_of_all = shlex.quote(",".join(str(root / name) for name in outer))
        raise UserError(f"{root}: the class folders lie in other folders ({levels[above[0]]}). If these are centers, "
                        f"prepare the folder of each as its own source: python -m busfast prepare --source={sources} "
                        f"--path={paths_of_all} --center={shlex.quote(','.join(outer))} --out=data/NAME\nIf they are "
                        f"no centers: {_command(root, 'folder')} takes {levels[above[0] if found is None else found]} "
                        "for patients; with --patient_from=none, no folders are patients.")
    notes = [f"the folders {levels[depth]} ({len(levels[depth])}) mean neither a class nor a patient, and are not used"
             for depth in unused]
    if found is None:
        count, few = len(levels[0]), len(paths) < 6 * len(levels[0])
        if len(levels) == 1 and (few and count > MANY or levels[0].numbered and count > (FEW // 2 if few else MANY)):
            notes.append(f"warning: the {count} folders {levels[0]}, of {len(paths) / count:.1f} images each, are read "
                         "as classes. If they are patients, a table has to name the classes: --source=csv")
        return Roles(labels, {}, notes + ([] if mode else _hint(root, paths)))
    patients = {name: path[found] for name, path in paths.items() if len(path) > found}
    side = "below" if found > level else "above"
    notes.insert(0, f"{counted(len(levels[found]), 'patient')}: the folders {levels[found]} {side} the classes "
                    "(if they are none: prepare --patient_from=none)")
    several: dict[str, dict[str, str]] = defaultdict(dict)
    for name, patient in patients.items():
        several[patient].setdefault(labels[name], name)
    if both := sorted(patient for patient, its in several.items() if len(its) > 1):
        note = f"{len(both)} of them have images of several classes, such as '{both[0]}'"
        if found > level:
            example = next(iter(several[both[0]].values()))
            note += ": each is taken for one person, who stays on one side of a split. If each class counts anew: " \
                f"--patient_from={_pattern(example, paths[example], level, found, '([^/]+/{gap}[^/]+)/')}"
        notes.insert(1, note)
    return Roles(labels, patients, notes)


def _class_level(root: Path, paths: Mapping[str, tuple[str, ...]], levels: list[_Level], classes: Sequence[str],
                 mode: str) -> int:
    """Returns the depth of the folders that are classes."""
    depth = min(map(len, paths.values()))
    for names in ({*map(plain, classes or CLASSES)}, USUAL):
        for level in range(depth):
            if any(plain(PREFIX.sub("", name)) in names for name in levels[level].names):
                return level
    outer, *inner = [level for level in range(depth) if len(levels[level]) > 1] or [depth - 1]
    inner = [level for level in inner if levels[level].repeated and not levels[level].parts]
    if not inner:
        return outer
    above, names = levels[inner[0] - 1], levels[inner[0]]
    patients = above.numbered and len(above) > len(names)
    if patients and outer == inner[0] - 1:
        return inner[0]
    if names.numbered and not levels[outer].numbered or mode:
        return outer
    example, path = next((name, path) for name, path in paths.items() if len(path) > inner[0])
    other = _pattern(example, path, inner[0] - 1 if patients else outer, inner[0],
                     "(?P<patient>[^/]+)/{gap}(?P<label>[^/]+)/")
    raise UserError(
        f"{root}: the folders have two readings, as {names} lie below several of {levels[outer]} (e.g. '{example}'). "
        f"If {levels[outer]} are classes: {_command(root, 'folder')} takes folders below them for patients, and none "
        f"no folders. If {names} are classes: {_command(root, other)}")


def _patient_level(root: Path, paths: Mapping[str, tuple[str, ...]], levels: list[_Level], level: int,
                   labels: Mapping[str, str], mode: str) -> int | None:
    """Returns the depth of the folders that are patients, or None."""
    classes = {*labels.values()}
    depths = [depth for depth in range(len(levels)) if depth != level]
    choices = [depth for depth in depths if levels[depth].numbered and not any(
        map(CENTER.search, levels[depth].names))]
    if mode == "folder":
        choices += [depth for depth in depths if len(levels[depth]) > 1]
        if not choices:
            raise UserError(f"{root}: --patient_from=folder, but besides the class folders there are none. Leave it "
                            "out, or give a regular expression.")
    for depth in choices:
        folders = levels[depth]
        if depth < level:
            its: dict[str, set[str]] = defaultdict(set)
            for name, path in paths.items():
                its[path[depth]].add(labels[name])
            clear = len(folders) > FEW or sum(len(one) > 1 for one in its.values()) < 0.5 * len(its)
            other = f", or centers, each a source of its own: --path={root / next(iter(its))},..."
        else:
            clear = not folders.repeated or len(folders) > FEW or len(classes) == 1 or any(
                map(PATIENT.match, folders.names))
            other = ""
        if not (clear or mode):
            raise UserError(f"{root}: the folders {folders} {'above' if depth < level else 'below several of'} the "
                            f"classes (e.g. '{next(iter(paths))}') may be patients: {_command(root, 'folder')}; or "
                            f"not: --patient_from=none{other}")
        return depth
    for depth in depths:
        folders = levels[depth]
        if depth > level and not folders.repeated and len(folders) > max(2, len(classes)) and (
                len(folders) > FEW or sum(folders.names.values()) < FEW * len(folders)) and not any(
                map(NO_PATIENT.fullmatch, folders.names)):
            raise UserError(f"{root}: the {len(folders)} folders {folders} below the classes may be patients: "
                            f"{_command(root, 'folder')}; or not: --patient_from=none")
    return None


def _hint(root: Path, paths: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Returns a note if most file names look like a patient and a number."""
    starts = {name: match[1] for name in paths if (match := IN_NAME.search(name)) and re.search(r"\d", match[1])}
    counts = Counter(starts.values())
    if sum(count for count in counts.values() if count > 1) < 0.8 * len(paths) or len(counts) < 3:
        return []
    name = next(iter(starts))
    return [f"warning: no folder names the patient, but file names may ('{starts[name]}' of '{name}'; {len(counts)} of "
            f"them). If so: {_command(root, shlex.quote(IN_NAME.pattern))}"]


def _by_pattern(root: Path, paths: Mapping[str, tuple[str, ...]], classes: Sequence[str], pattern: str) -> Roles:
    """Takes the patient, and the class if the pattern has a group for it, from the paths."""
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient_from={pattern} is neither folder, none nor a regular expression: "
                        f"{error}.") from None
    if not (search.groups == 1 or {"patient", "label"} <= {*search.groupindex}):
        raise UserError(f"--patient_from={pattern} has {search.groups} groups. Give it one around the patient, such as "
                        "--patient_from='(P[0-9]+)_', or the groups (?P<patient>...) and (?P<label>...).")
    found = {name: match for name in paths if (match := search.search(name))}
    if not found:
        raise UserError(f"{root}: --patient_from={pattern} matches none of {counted(len(paths), 'path')}, such as "
                        f"'{next(iter(paths))}'. Correct it.")
    patients = {name: match["patient"] if "patient" in search.groupindex else match[1]
                for name, match in found.items()}
    if "label" in search.groupindex:
        labels = {name: match["label"] for name, match in found.items()}
    else:
        own = {name: tuple(folder for folder in path if folder != patients.get(name)) or path
               for name, path in paths.items()}
        labels = read_levels(root, own, {}, classes, "none").labels
    example = next(iter(found))
    notes = [f"{counted(len({*patients.values()}), 'patient')} by --patient_from, such as '{patients[example]}' of "
             f"'{example}'"]
    if len(found) < len(paths):
        other = next(name for name in paths if name not in found)
        notes.append(f"{len(paths) - len(found)} paths do not match --patient_from, and "
                     f"{'are left out' if 'label' in search.groupindex else 'have no patient'}, e.g. '{other}'")
    return Roles(labels, patients, notes)


def _check_class(root: Path, name: str, label: str, path: tuple[str, ...], classes: Sequence[str]) -> None:
    """Refuses an image whose class folder is called like none, where another folder above it is, or never a class."""
    if plain(label) in classes:
        return
    if inner := next((folder for folder in path if plain(folder) in classes), ""):
        raise UserError(f"{root}: the class folder '{inner}' lies in '{path[0]}' (e.g. '{name}'), but others lie "
                        "elsewhere. Move all class folders to one level.")
    if plain(label) in NO_CLASSES:
        raise UserError(f"{root}: the folder '{label}' is not named like a class (e.g. '{name}'). Name the folders "
                        "after the classes; if a table has the labels, use --source=csv.")


def _command(root: Path, answer: str) -> str:
    return f"python -m busfast prepare --source=folder --path={shlex.quote(str(root))} --patient_from={answer}"


def _pattern(name: str, path: tuple[str, ...], first: int, last: int, between: str) -> str:
    """Returns a quoted pattern for the folders at two depths above an image; `between` as `str.format` has it."""
    parts = PurePosixPath(name).parts
    start = parts.index(path[first])
    gap = parts.index(path[last], start + 1) - start - 1
    skip = f"(?:[^/]+/){{{start}}}" if start else ""
    return shlex.quote("^" + skip + between.format(gap="[^/]+/" * gap))
