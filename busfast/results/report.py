"""A run's files -> report.html, one page that can be sent to a colleague, and model_card.md."""

import base64
import datetime
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from busfast import __version__
from busfast.csvfile import read_frame
from busfast.data.audit import count_findings
from busfast.data.duplicate_pairs import audit_file
from busfast.data.open_data import find_data
from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.config import changed_recipe
from busfast.results.cases import show_cases
from busfast.results.evaluation import TARGET, Evaluation, read_explanation, summarize
from busfast.results.flow import ALL, count_flow
from busfast.results.limits import find_limits
from busfast.results.plots import draw_all
from busfast.results.predictions import arrays, refuse_stale, update_record
from busfast.results.printing import add_count, explain_blank, format_interval
from busfast.results.scores import names, present
from busfast.text import counted, markdown_table, times
from busfast.training.runs import Run

MARK = "<!-- written by busfast report -->"
CURVES = {"loss_curve.png": "Loss in each epoch: of training, with the weights of the classes if any, and of "
          "validation, without; each on its own scale.",
          "recall_curve.png": "Sensitivity for each class on the validation part in each epoch (the log's recall).",
          "lr_curve.png": "Learning rate at the end of each epoch.",
          "explain.png": "The surest right and wrong cases of each class, and below each the same image with Grad-CAM."}
TITLES = {"macro_auc": "macro AUC", "macro_ap": "macro average precision", "macro_f1": "macro F1",
          "balanced_accuracy": "balanced accuracy", "mcc": "Matthews correlation", "brier": "Brier score (0 to 2)",
          "ece": "expected calibration error", "macro_auc_present": "macro AUC of the classes present",
          "balanced_accuracy_present": "balanced accuracy of the classes present"}
KINDS = {"auc": "AUC", "ap": "average precision", "ppv": "PPV", "npv": "NPV", "f1": "F1"}
PART = {"valid": "validation"}  # its name for people; others are called as they are
NUMBER = re.compile(r"[-+]?\d[\d.,]*%?,?( .*)?|not defined|not possible|")  # a cell of a column that is aligned right
LONG = 48  # characters of a cell that makes its column wide
# Split -> why it leaves images unused.
UNUSED_BY = {"center_holdout": "of other centers, in one group with a held-out image",
             "given": "in no part of the split that came with the images, or in one group with a later part"}
SECTIONS = (("summary", "Summary"), ("limits", "Limits"), ("flow", "Flow of images and patients"), ("scores", "Scores"),
            ("cases", "Right and wrong images"),
            ("centers", "Centers, patients and other subgroups"), ("calibration", "Calibration"),
            ("operating", "Operating points"), ("explanation", "Where it looks, and shortcuts"),
            ("data", "Data and training"), ("reproduce", "How to reproduce"))


def write_report(run: Run, *, target: float = TARGET, positive: str | None = None,
                 prevalence: Any = None) -> list[Path]:
    """Writes report.html, model_card.md and the pictures of a run that `evaluate` has scored.

    Args:
        run, target, positive, prevalence: see `summarize`; the last, if given, is recorded. Intervals are taken from
            the tables that `evaluate` wrote; those that it did not write for this request are computed.

    Returns:
        report.html and model_card.md.

    Raises:
        UserError: there are no predictions, or they are of other weights, or a file of these names was not written by
            busfast.
    """
    refuse_stale(run)
    found = summarize(run, target=target, positive=positive, prevalence=prevalence, reuse=True)
    if prevalence:
        update_record(run, prevalence=list(found.prevalences))
    return write_pages(found, "report.html", "model_card.md")


def write_pages(found: Evaluation, *files: str) -> list[Path]:
    """Writes pages of an evaluation, and their pictures, into its folder; see `write_report`."""
    paths = [found.run.results / name for name in files]
    for path in paths:
        if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:200]:
            raise UserError(f"{path} was not written by busfast and is not overwritten. Move it away.")
    read_explanation(found.run), count_flow(found)  # raise on a damaged file before anything is written
    facts = gather(found, draw_all(found, found.run.results))
    templates = Environment(loader=PackageLoader("busfast.results"), autoescape=lambda name: ".html" in name,
                            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"escape_html": _escape, "pieces": split_cell, "table": _markdown}
    for path in paths:
        with atomic(path) as file:
            file.write(templates.get_template(f"{path.name}.j2").render(facts))
    return paths


def _escape(text: str) -> str:
    return text.replace("<", "&lt;")


def _markdown(table: dict[str, Any]) -> str:
    return markdown_table(table["columns"], [map(_escape, row) for row in table["rows"]])


def gather(found: Evaluation, pictures: dict[str, str]) -> dict[str, Any]:
    """Collects what the templates show, with every number formatted; `pictures`: alternative text of each file."""
    folder, config, record = found.run.results, found.config, found.record
    shown = pictures | {name: alt for name, alt in CURVES.items() if (folder / name).is_file()}
    return {
        "mark": MARK, "title": f"{found.run.name}: report of a trained classifier"
        + (" on an EXTERNAL set" if found.external else ""), "version": __version__,
        "date": datetime.date.today().isoformat(), "run": found.run.name, "external": found.external,
        "sections": [(key, name) for key, name in SECTIONS if key != "explanation" or not found.external],
        "alarms": format_alarms(record), "summary": _summary(found), "headline": _headline(found),
        "cases": show_cases(found), "limits": find_limits(found), "flow": _flow(count_flow(found)),
        "unused": _unused(record), "changes": _changes(found),
        "scores": _each_part(found, "All scores", names(config.classes)), "subsets": _subsets(found),
        "calibration_notes": found.calibration_notes, "calibration": _calibration(found),
        "explained": _explained(found), "points": _points(found), "referral": _referral(found),
        "predictive_values": _predictive_values(found), "own_prevalence": _own_prevalence(found),
        "delong": _delong(found),
        "counts": _counts(found), "data": _data(found), "members": _members(found),
        "commands": _commands(found), "versions": _versions(record),
        "pictures": {name: {"alt": alt, "data": base64.b64encode((folder / name).read_bytes()).decode("ascii")}
                     for name, alt in shown.items()},
        "config": config, "recipe": changed_recipe(config), "record": record, "where": found.where,
        "positive": found.positive, "times": times(len(found.history)),
    }


def _grid(caption: str, columns: list[str], rows: list[list], note: str = "") -> dict[str, Any]:
    return {"caption": caption, "columns": columns, "rows": rows, "note": note,
            "kinds": [_kind([row[number] for row in rows]) for number in range(len(columns))]}


def _kind(cells: list[str]) -> str:
    """Returns how a column is set: "n" of numbers, aligned right; "long" of sentences; "" of words."""
    if any(len(cell) >= LONG and not NUMBER.fullmatch(cell) for cell in cells):
        return "long"
    return "n" if all(map(NUMBER.fullmatch, cells)) else ""


def format_alarms(record: dict[str, Any]) -> list[str]:
    """Returns the warnings that come before anything else, from a run's record."""
    alarms = []
    if record.get("phantom"):
        alarms.append("The images are a PHANTOM, made by a program: nothing here says anything about patients.")
    if record.get("leaks"):
        alarms.append(f"The split leaks ({record['leaks']} in two parts): these scores are too good.")
    if record.get("unfinished"):
        alarms.append(record["unfinished"])
    return alarms


def _summary(found: Evaluation) -> list[str]:
    auc, hit = found.pick("macro_auc"), found.show(f"sensitivity_{found.positive}")
    if found.external:
        return [f"The model, {_model(found)}, was trained to distinguish {', '.join(found.config.classes)}, and is "
                "scored here on an EXTERNAL set. Nothing was chosen or fitted on it.", *found.external.notes,
                f"It has been scored {times(len(found.history))}."]
    valid = found.pick("macro_auc", "valid")
    held = ", ".join(found.record.get("holdout") or [])
    where = (f"images of {held}, a center that it never saw in training" if held
             else "images that it never saw, of centers that it was trained on" if (found.test["center"] != "").all()
             else "images that it never saw, of centers that are not recorded")
    return [
        f"The model, {_model(found)}, was trained to distinguish {', '.join(found.config.classes)} and tested on "
        f"{counted(int(auc['images']), 'image')} of {counted(int(auc['groups']), 'group')} (patients, or duplicates): "
        f"{where}.",
        f"Its macro AUC there is {format_interval(auc)}; on the validation part, by which its "
        f"{'epochs were' if found.record.get('members') else 'epoch was'} chosen, it is "
        f"{format_interval(valid)}. Its sensitivity for {found.positive}, where each image is assigned its most "
        f"probable class, is {hit}.",
        f"The test part has been scored {times(len(found.history))}."]


def _model(found: Evaluation) -> str:
    members = found.record.get("members")
    return f"the mean of {len(members)} runs of {found.config.arch}" if members else found.config.arch


def _headline(found: Evaluation) -> dict[str, Any]:
    scores = ["macro_auc", "balanced_accuracy", f"sensitivity_{found.positive}", f"specificity_{found.positive}",
              f"ppv_{found.positive}", f"npv_{found.positive}"]
    return _each_part(found, "The main scores, with 95% intervals", scores)


def _changes(found: Evaluation) -> dict[str, Any] | None:
    if found.external is None or found.external.changes is None:
        return None
    return _grid("What changed", ["what", "on the run's own part", "on this set", "difference"], [
        [row["what"], *("not defined" if np.isnan(row[name]) else f"{row[name]:.3f}" for name in ("own", "external")),
         format_interval(row.rename({"difference": "estimate"}))] for _, row in found.external.changes.iterrows()],
        f"{found.external.changed[0].removesuffix(':')}; 95% intervals by patients, unpaired.")


def split_cell(cell: str) -> list[str]:
    """Returns the pieces of a cell between which its line may break: "0.875", "(0.671 to 0.960)," and "21 of 24"."""
    return re.split(r" (?=\()|(?<=,) (?=\d+ of \d+$)", cell)


def _title(name: str) -> str:
    """Returns a score's name in plain English: "auc_benign" is "AUC benign"."""
    kind, _, label = name.partition("_")
    return TITLES.get(name) or f"{KINDS.get(kind, kind)} {label}".strip()


def _each_part(found: Evaluation, caption: str, scores: list[str]) -> dict[str, Any]:
    return _grid(caption, ["score", *(PART.get(part, part) for part in found.parts)],
                 [[_title(name), *(found.show(name, part) if found.has(name, part) else ""
                                   for part in found.parts)] for name in present(scores) if found.has(name)])


def _subsets(found: Evaluation) -> list[dict[str, Any]]:
    scores = ["macro_auc", *(f"sensitivity_{name}" for name in found.config.classes)]
    where, grids, table = found.where.capitalize(), [], found.metrics.set_index(["part", "by", "value", "score"])
    for by, caption, note in (
            ("center", "each center", ""), ("device", "each device", ""), ("sex", "each sex", ""),
            ("age", "thirds by age", "Images without an age as a number are left out."),
            ("lesion_area", "thirds by the lesion's share of the image", "By the lesion masks; images without one are "
             "left out, and the AUC is the mean of the classes that are left."),
            ("patient", "by patient", "The mean probability of a patient's images; a patient whose images have several "
             "labels counts once for each.")):
        rows = found.metrics[(found.metrics["part"] == found.tested) & (found.metrics["by"] == by)]
        cells = []
        for value, subset in rows.groupby("value", sort=False):
            present = by == "lesion_area" and (found.tested, by, value, "macro_auc_present") in table.index
            cells.append([value or ("unknown" if by != "patient" else "all patients"),
                          str(subset["images"].iloc[0]), str(subset["groups"].iloc[0]),
                          *(found.show(f"{name}_present" if present and name == "macro_auc" else name, "", by, value)
                            for name in scores)])
        if cells:
            units = "patients and labels" if by == "patient" else "images"
            grids.append(_grid(f"{where}, {caption}", [by.replace("_", " "), units, "groups", *map(_title, scores)],
                               cells, note))
    return grids


def _calibration(found: Evaluation) -> list[dict[str, Any]]:
    cells = {key: [format_interval(row) for _, row in rows.iterrows()] for key, rows in found.calibration.groupby(
        ["part", "score", "probabilities"], sort=False)}
    states, rows, kinds = [state for state, _ in found.states], [], dict.fromkeys(found.calibration["score"])
    for part, state in itertools.product(found.parts, states):
        rows.append([PART.get(part, part), state, *cells[part, "brier", state], *cells[part, "ece", state]])
    lines = [[PART.get(part, part), name.removeprefix("slope_"), state,
              *cells[part, name.replace("slope", "intercept", 1), state], *cells[part, name, state]]
             for part in found.parts for name in kinds if name.startswith("slope_") for state in states]
    return [_grid("Before and after the temperature" if len(states) > 1 else "Scores of the probabilities",
                  ["part", "probabilities", "Brier score (0 to 2)", "expected calibration error"], rows),
            _grid("Calibration of each class against the rest", ["part", "class", "probabilities",
                  "intercept (0 is right)", "slope (1 is right)"], lines, "Intercept above 0: the probabilities are "
                  "too low; slope below 1: they are too extreme. Too few patients: fewer than 3 of the class or of the "
                  "rest (slope: 10), or an interval too wide to say anything.")]


def _points(found: Evaluation) -> dict[str, Any]:
    rows = []
    for (target, threshold, part), point in found.points.groupby(["target", "threshold", "part"], sort=False):
        rates = found.show_point(threshold, part, point)
        rows.append([f"{target:g}", f"{threshold:.3f}", PART.get(part, part),
                     *(rates[name] for name in ("sensitivity", "specificity", "ppv", "npv"))])
    return _grid(f"Predicting {found.positive}", ["target sensitivity", "threshold", "part", "sensitivity",
                                                  "specificity", "PPV", "NPV"], rows)


def _predictive_values(found: Evaluation) -> dict[str, Any]:
    return _grid(f"Predicting {found.positive} at other prevalences, {found.where}",
                 ["prevalence", "target sensitivity", "PPV", "NPV"],
                 [[f"{100 * prevalence:.3g}%", f"{target:g}", pair["ppv"], pair["npv"]] for target in found.thresholds
                  for prevalence, pair in found.predictive_values_at(target)])


def _flow(counts: pd.DataFrame) -> dict[str, Any]:
    """The table of the flow, and its first row as steps (name, images, groups) for the boxes."""
    cells = [[center or "unknown", *(f"{row.images} ({row.groups})" for row in rows.itertuples())]
             for center, rows in counts.groupby("center", sort=False)]
    steps = counts[counts["center"] == ALL].replace({"step": PART})
    grid = _grid("Images (patients, or groups of duplicates)", ["center", *steps["step"]], cells)
    return grid | {"steps": [(row.step, counted(row.images, "image"), counted(row.groups, "group"))
                             for row in steps.itertuples()],
                   "left_out": any(name.startswith("left out") for name in steps["step"])}


def _unused(record: dict[str, Any]) -> str:
    """Returns why images are in no part; "" if it is not known."""
    dropped = (record.get("label_decisions") or {}).get("dropped")
    return "; ".join(filter(None, [UNUSED_BY.get(record.get("split"), ""), dropped and f"{dropped} by labels.csv"]))


def _own_prevalence(found: Evaluation) -> str:
    positive = int((found.test["label"] == found.positive).sum())
    return (f"{100 * positive / len(found.test):.3g}% ({positive} of {counted(len(found.test), 'image')} of the "
            f"{found.where} are {found.positive})")


def _delong(found: Evaluation) -> dict[str, Any]:
    return _grid(f"AUC of each class against the rest, {found.where}: two ways to an interval",
                 ["score", "each patient left out", "DeLong, by patients"],
                 [[_title(row["score"]), format_interval(found.pick(row["score"])), format_interval(row)]
                  for _, row in found.delong.iterrows()])


def _referral(found: Evaluation) -> dict[str, Any]:
    labels, probabilities = arrays(found.test, found.config.classes, "c_")
    confidence, wrong, rows = probabilities.max(1), probabilities.argmax(1) != labels, []
    for _, row in found.referral.rename(columns={"error": "estimate"}).iterrows():
        kept = confidence >= row["threshold"]
        count = int(wrong[kept].sum()), int(kept.sum())
        rows.append([f"{row['wanted']:.0%}", f"{row['threshold']:.3f}",
                     add_count(f"{row['coverage']:.0%}", (count[1], len(kept))),
                     add_count(format_interval(row), count)])
    return _grid(f"Coverage against error, {found.where}", ["kept on validation", "lowest probability",
                                                            f"kept on {found.tested}", "error of those kept"], rows)


def _explained(found: Evaluation) -> list[dict[str, Any]]:
    tables = read_explanation(found.run)
    if tables is None:
        return []
    maps, probes = tables
    caption = "Maps against lesion masks" if "pointing" in set(maps["measure"]) else "Maps"
    return [_grid(caption, ["measure", "value", "images"],
                  [[row["measure"], *((format_interval(row), str(int(row["images"]))) if row["images"] else ("", ""))]
                   for _, row in maps.iterrows()], f"{why}." if (why := explain_blank(maps)) else ""),
            _grid("Shortcut probes, validation part", ["probe", "score", "value", "chance", "verdict"],
                  [[row["probe"], row["score"], format_interval(row) if row["images"] else "not possible",
                    f"{row['chance']:.2f}" if row["images"] and row["chance"] else "", row["verdict"]]
                   for _, row in probes.iterrows()])]


def _counts(found: Evaluation) -> dict[str, Any]:
    counts = found.record.get("counts") or {}
    if found.external:
        counts = counts | {found.where: found.test["label"].value_counts().to_dict()}
    return _grid("Images of each part", ["part", *found.config.classes],
                 [[PART.get(part, part), *(str(row.get(name, 0)) for name in found.config.classes)]
                  for part, row in counts.items()])


def _data(found: Evaluation) -> list[str]:
    config, record = found.config, found.record
    if not config.data:
        return [f"Model: {config.arch}, of a bundle; its bundle.json says how it was trained."]
    lines = [f"Data: {config.data}; split: {record.get('split')}"
             + (f", fold {record['fold']}" if record.get("fold") else "")
             + (f", held out: {', '.join(record['holdout'])}" if record.get("holdout") else "")
             + ("." if record.get("members") else f"; seed {config.seed}."),
             *([f"Ensemble: the mean of the probabilities of {len(record['members'])} runs, which count alike"
                + ("; each looks at the image and its mirror image." if config.tta == "flip" else ".")]
               if record.get("members") else []),
             *([f"Labels of train and valid: {cleaned['corrected']} corrected, "
                f"{counted(cleaned['dropped'], 'image')} dropped, as decided in {cleaned['file']}; "
                "the test part has the given ones."]
               if (cleaned := record.get("label_decisions")) else []),
             f"Model: {config.arch}; {(record.get('weights') or {}).get('text', 'weights unknown')}."]
    return lines + [_audit(config.data)]


def _members(found: Evaluation) -> dict[str, Any] | None:
    """The runs of an ensemble; None of another run."""
    rows = []
    for name in found.record.get("members") or ():
        run = Run(name)
        if not found.config.data or not (run.results / "config.yaml").is_file():  # of a bundle: a run of its maker
            rows.append([f"{name} (no longer here)" if found.config.data else name, "", "", "", ""])
            continue
        config, record = run.read_config()
        rows.append([name, str(config.seed), str(record.get("fold") or ""), ", ".join(record.get("holdout") or []),
                     str(run.read_summary().get("best_epoch") or "")])
    if not rows:
        return None
    columns = ["run", "seed", "fold", "held out", "best epoch"]
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    return _grid("Members of the ensemble", [columns[number] for number in kept],
                 [[row[number] for number in kept] for row in rows])


def _audit(data: str) -> str:
    try:
        path = audit_file(find_data(data))
    except UserError:
        path = None
    if path is None or not path.is_file():
        return f"The images were not audited (python -m busfast audit --data={data})."
    lines = count_findings(read_frame(path, ("finding", "other", "differs", "decision"), empty=True, dtype=str,
                                      keep_default_na=False))
    return "Audit: " + ("; ".join(f"{name}: {text}" for name, text in lines) or "no findings") + "."


def _commands(found: Evaluation) -> str:
    if found.external:
        return found.external.command
    members = [Run(name) for name in found.record.get("members") or ()]
    return "\n".join([*map(_train_command, [*members, found.run]), f"python -m busfast evaluate --run={found.run.name}",
                      *([f"python -m busfast explain --run={found.run.name}"] if read_explanation(found.run) else []),
                      f"python -m busfast report --run={found.run.name}"])


def _train_command(run: Run) -> str:
    file = run.results / "config.yaml"
    if not file.is_file():
        return f"# {run.name} is not here: its command was the first line of its config.yaml"
    comment = file.read_text(encoding="utf-8").partition("\n")[0]
    return comment.partition("this again: ")[2] or f"python -m busfast train --pipeline={file}"


def _versions(record: dict[str, Any]) -> dict[str, Any]:
    rows = [[name, value] for name, value in (record.get("versions") or {}).items()]
    return _grid("Trained with", ["what", "version"], [*rows, ["data (SHA-256)", record.get("table_sha256", "")]])
