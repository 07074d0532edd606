"""A finished model and a labelled set that came later -> its scores there; nothing is chosen or fitted on the set."""

import datetime
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from busfast import __version__
from busfast.csvfile import write_csv
from busfast.data.external_set import leave_out_copies, read_set
from busfast.data.labels import split_labels
from busfast.data.open_data import find_data
from busfast.data.quarantine import LEFT_OUT_FILE
from busfast.data.split import Split
from busfast.data.split_file import of_person, read_split
from busfast.errors import UserError, choose
from busfast.files import make_folder
from busfast.inference.bundle import read_bundle
from busfast.inference.predictor import load_predictor
from busfast.inference.run_model import load_run_model
from busfast.inference.stream import predict_logits, stream_logits
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import folder_name, name_after
from busfast.pipelines.positive import require_positive
from busfast.pipelines.splits import is_phantom
from busfast.results.calibration import calibrate
from busfast.results.changes import compare_sets, describe_changes
from busfast.results.evaluation import TARGET, Evaluation, External, check_target, make_evaluation, write_tables
from busfast.results.lesions import add_lesion_area
from busfast.results.multi_label import LabelEvaluation, write_labels
from busfast.results.predictions import (
    COLUMNS,
    EXTERNAL,
    FILE,
    RECORD,
    arrays,
    check_weights,
    make_predictions,
    read_history,
    read_parts,
    read_positive,
    read_predictions,
    refuse_unreadable,
    update_record,
    write_predictions,
)
from busfast.results.predictive_values import check_prevalences
from busfast.results.printing import print_evaluation
from busfast.results.report import write_pages
from busfast.results.written import FORMAT
from busfast.text import counted
from busfast.training.finish import read_valid
from busfast.training.runs import Run, describe_unfinished
from busfast.yamlfile import read_yaml


@dataclass(frozen=True)
class Subject:
    """A finished model, with all that was chosen before it met the set."""

    name: str  # the folder below results/ that holds its external sets
    flag: str  # that names it
    config: Config
    record: dict[str, Any]
    weights: str  # SHA-256
    predict: Callable[[Sequence[Path]], tuple[np.ndarray, list[str]]]  # as `predict_logits`
    source: str  # where its calibration and thresholds come from
    valid: pd.DataFrame | None = None  # the predictions of its validation part, which they are fitted to
    temperature: float | None = None  # of a bundle
    points: Sequence[Mapping[str, Any]] = ()  # operating points of a bundle
    seen: Split | None = None  # the images that trained and chose it; None: they are not at hand
    own: pd.DataFrame | None = None  # the predictions of its own part that the set is compared with
    own_name: str = ""


def evaluate_external(data: str, *, run: Run | None = None, bundle: str | Path = "", target: float | str = TARGET,
                      positive: str | None = None, prevalence: Any = None, again: bool = False,
                      **flags) -> Evaluation | LabelEvaluation:
    """Scores a run, or a bundle, on another labelled set; writes predictions, tables and a report, and prints scores.

    The files go to results/RUN/external/NAME/ or results/external/BUNDLE/NAME/. Another set of the same name gets a
    number, so that nothing is overwritten.

    Args:
        data: the set, as `read_data` takes it.
        run, bundle: one of them: a trained run, or the folder of a bundle.
        target, positive, prevalence: see `summarize`; a bundle has its own of the first two.
        again: predict even if the same weights were scored on the same images before.
        flags: bs, device and threads of the model.

    Raises:
        UserError: the set cannot be read, has no image that may be scored, or is the one that the run was trained on.
    """
    subject = _of_run(run, data, **flags) if run else _of_bundle(Path(bundle), **flags)
    given, target = positive, _check_request(subject, target, positive)
    config, delim = subject.config, subject.config.label_delim
    check_prevalences(prevalence)
    if prevalence and delim:
        raise UserError(f"--prevalence={prevalence}: {subject.flag} has images of several labels. Leave it out.")
    table, left_out, notes = read_set(data, config.classes, delim)
    table, copies, found = leave_out_copies(table, subject.seen)
    rows, left_out = table.rows.assign(part=EXTERNAL), pd.concat([left_out, copies])
    if rows.empty:
        raise UserError(f"All images of {data} are copies of images that trained the model: nothing is left to score. "
                        "Name another set.")
    content = rows[list(COLUMNS)].assign(pixels=rows["image"].map(table.pixels)).to_csv(index=False)
    key = {"weights_sha256": subject.weights, "images_sha256": hashlib.sha256(content.encode()).hexdigest()}
    place, history = _find_place(f"{subject.name}/{folder_name(name_after(Path(data)))}", key)
    positive = _choose_positive(subject, place, positive)
    if history and not again:
        print(f"{place.name}: these weights were scored on these images on {history[-1]['when']}; their {FILE} is "
              "reused (to predict again: --again)")
    else:
        logits, reasons = subject.predict(table.image_paths())
        refuse_unreadable(data, rows["image"], reasons)
        history.append({"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                        "busfast": __version__, **key, "images": len(rows), "left_out": len(left_out)})
        make_folder(place.results)
        update_record(place, external=data, evaluations=history)
        if len(left_out):
            write_csv(left_out, place.results / LEFT_OUT_FILE)
        write_predictions(place, config, add_lesion_area(rows.assign(**of_person(rows)), table.root), logits)
    if given:
        update_record(place, positive=given)
    if prevalence:
        update_record(place, prevalence=list(check_prevalences(prevalence)))
    prevalences = check_prevalences(prevalence or read_yaml(place.results / RECORD).get("prevalence"))
    there = {name for label in rows["label"] for name in split_labels(label, delim)}
    if missing := [name for name in config.classes if name not in there]:
        found.append(f"no image of class {', '.join(missing)}: what needs one is not defined; means over the other "
                     "classes are named so")
    command = shlex.join(["python", "-m", "busfast", "evaluate", subject.flag, f"--data={data}"])
    scored = (f"{data}: {counted(len(rows), 'image')} of {counted(rows['group'].nunique(), 'group')} (patients, "
              f"duplicates) scored, {len(left_out)} left out"
              + (f" (listed in {place.results / LEFT_OUT_FILE})" if len(left_out) else ""))
    external = External(command, (scored, *notes, *found, subject.source),
                        images=dict(zip(rows["image"], table.image_paths(), strict=True)))
    phantom = bool(is_phantom(replace(config, data=data)) or subject.record.get("phantom"))
    return _score(replace(subject, record=subject.record | {"phantom": phantom}), place, external, target, positive,
                  prevalences)


def _check_request(subject: Subject, target: float | str, positive: str | None) -> float:
    """Checks what was asked for before the set is read, and returns the target."""
    if subject.config.label_delim and positive:
        raise UserError(f"--positive={positive}: {subject.flag} has images of several labels, and a threshold for "
                        "each. Leave it out.")
    number = check_target(target)
    if positive is not None:
        require_positive(subject.config, subject.flag, positive)
    if subject.points and not subject.config.label_delim:
        choose("class with a threshold in this bundle", positive or subject.points[0]["class"],
               {point["class"] for point in subject.points})
        choose("target of this bundle", f"{number:g}", [f"{point['target']:g}" for point in subject.points])
    return number


def _choose_positive(subject: Subject, place: Run, positive: str | None) -> str:
    """Returns the positive class: as given, or given before for this set, or of the bundle or the run."""
    config, points = subject.config, subject.points
    if config.label_delim:
        return ""
    if positive is None:
        positive = read_positive(place, replace(config, positive="")) or (points[0]["class"] if points else None)
    return require_positive(config, subject.flag, positive)


def _find_place(name: str, key: Mapping[str, str]) -> tuple[Run, list[dict[str, Any]]]:
    """Returns where the scores of a model on a set belong, and when it was scored there before."""
    number = 1
    while True:
        place = Run(name if number == 1 else f"{name}-{number}")
        if not place.results.exists():
            return place, []
        history = read_history(place)
        if history and key.items() <= history[-1].items() and (place.results / FILE).is_file():
            return place, history
        number += 1


def _score(subject: Subject, place: Run, external: External, target: float, positive: str,
           prevalences: tuple[float, ...]) -> Evaluation | LabelEvaluation:
    """Computes, writes and prints the scores of predictions.csv."""
    config, delim = subject.config, subject.config.label_delim
    table = read_predictions(place, config.classes, delim, (EXTERNAL,))
    chosen = {point["class" if delim else "target"]: point["threshold"] for point in subject.points}
    if subject.valid is not None:
        table = pd.concat([subject.valid, table], ignore_index=True)
    if delim:
        thresholds = np.array([chosen.get(name, 0.5) for name in config.classes])
        labels = LabelEvaluation(place, config, subject.record, table, external,
                                 thresholds if subject.valid is None else None)
        write_labels(labels)
        return labels
    found = make_evaluation(place, config, subject.record, table, positive, target, subject.temperature,
                            external=external, chosen=chosen if subject.valid is None else None,
                            prevalences=prevalences)
    if subject.own is not None:
        logits = arrays(subject.own, config.classes, "logit_")[1]
        own = subject.own.join(pd.DataFrame(calibrate(logits, found.temperature or 1), subject.own.index,
                                            [f"c_{name}" for name in config.classes]))
        changes = compare_sets(own, found.test, config.classes, positive)
        write_csv(changes, place.results / "changes.csv", float_format=FORMAT)
        found = replace(found, external=replace(external, changes=changes, changed=tuple(
            describe_changes(changes, own, subject.own_name))))
    write_tables(found)
    print(f"wrote {write_pages(found, 'report.html')[0]}")
    print_evaluation(found)
    return found


def _of_run(run: Run, data: str, **flags) -> Subject:
    config, record = run.read_config()
    try:
        own = find_data(config.data)
    except UserError:  # it was moved; the hashes in split.csv still find identical images
        own = Path(config.data) / "table.csv"
    if find_data(data).resolve() == own.resolve():
        raise UserError(f"--data={data} is what {run.name} was trained on. To score its test part, leave out --data.")
    weights, history = check_weights(run, record), read_history(run)
    valid, own_rows, own_name = None, None, f"test part of {run.name}"
    source = "calibration and thresholds: none, as each image of the members may have trained another"
    if not record.get("unscored"):
        source = f"calibration and thresholds: as chosen on the validation part of {run.name}"
        if history and history[-1]["weights_sha256"] == weights and (run.results / FILE).is_file():
            predicted = read_predictions(run, config.classes, config.label_delim)
            valid, own_rows = predicted.query("part == 'valid'"), predicted.query("part == 'test'")
        else:  # not evaluated, or without a test part: as the training process predicted
            rows = read_parts(run, "", ("valid",)).rows
            values = read_valid(run, config.classes, rows["image"]).clip(1e-30, 1 - 1e-15)
            valid = make_predictions(config, rows, logit(values) if config.label_delim else np.log(values))
            own_rows = valid
            own_name = f"validation part of {run.name}, by which it was chosen (its test part was not scored)"

    def predict(paths: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
        return predict_logits(load_run_model(run.best_weights(), config, record, **flags), paths)

    seen = read_split(run.results / "split.csv", own.parent).only("train", "valid")
    record = record | {"unfinished": describe_unfinished(run, config, record)}
    config = replace(config, positive=read_positive(run, config) or "")
    return Subject(f"{run.name}/{EXTERNAL}", f"--run={run.name}", config, record, weights, predict, source, valid,
                   seen=seen, own=own_rows, own_name=own_name)


def _of_bundle(folder: Path, *, bs: int = Config.bs, device: str = "auto", threads: int = 0) -> Subject:
    facts = read_bundle(folder).facts
    trained = facts["run"] if isinstance(facts["run"], dict) else {}
    settings = trained.get("config")
    config = Config(classes=tuple(facts["classes"]), arch=facts["architecture"],
                    label_delim=facts.get("label_delim", ""),
                    positive=settings.get("positive", "") if isinstance(settings, dict) else "")

    def predict(paths: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
        engine = load_predictor(folder, device=device, threads=threads).engine
        return stream_logits(engine, paths, len(config.classes), bs=bs, threads=threads)

    names = trained.get("members")
    members = [str(name) for name in names] if isinstance(names, list) and len(names) == facts.get("members") else []
    source = "calibration and thresholds: as in the bundle" if facts["operating_points"] else \
        "calibration and thresholds: none in the bundle, as its run was not evaluated before the export"
    return Subject(f"{EXTERNAL}/{folder_name(str(trained.get('name') or name_after(folder)))}", f"--model={folder}",
                   config, {"members": members} | {key: trained.get(key) for key in ("phantom", "leaks")},
                   facts["files"]["weights.safetensors"], predict, source, temperature=facts["temperature"],
                   points=facts["operating_points"])
