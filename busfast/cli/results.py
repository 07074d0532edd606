"""The verbs that read trained runs: evaluate, explain, report, compare."""

import shlex
from pathlib import Path
from typing import Any

from busfast.cli import parse
from busfast.cli.flags import MODEL, model_flags, with_settings
from busfast.errors import UserError
from busfast.imports import heavy_imports
from busfast.text import counted, listed
from busfast.training.runs import Run, all_runs, describe_unfinished, find_run, refuse_while_training


def find_single(name: str) -> Run:
    """Returns a run as `find_run` does, and says so if its training ended too early; UserError, too, for a run that
    another process trains, and for a group of runs, which says what takes one."""
    try:
        found = find_run(name)
    except UserError:
        runs = [run for run in all_runs() if run.name.split("/")[0] == name.split("/")[0]]
        if len(runs) < 2:  # no group
            raise
        from busfast.results.run_groups import find_groups

        for group in find_groups(runs):
            if group.name == name:
                members = listed([run.name for run in group.runs])
                mean = "" if group.runs[0].read_config()[1].get("members") else \
                    f", or one run that is their mean: python -m busfast ensemble {shlex.quote(f'--runs={name}')}"
                raise UserError(f"'{name}' is a group of runs. Name each of them in turn ({members}){mean}") from None
        raise
    refuse_while_training(found)
    if unfinished := describe_unfinished(found, *found.read_config()):
        print(f"{found.name}: {unfinished}")
    return found


@with_settings(MODEL, device="as in training", threads="as in training")
def evaluate(*, run: str = None, data: str = None, model: str = None, target: float = 0.9, positive: str = None,
             prevalence: str = None, again: bool = False, **settings: Any) -> str | None:
    """Scores a run's validation and test part, with intervals; writes predictions.csv and tables into results/RUN/.

    A run of several labels gets a score and a threshold for each label (the highest F1 on the validation part).

    The test part is predicted only once for the same weights; each time is recorded in results/RUN/evaluation.yaml.

    With --data, a run or a bundle is scored on another labelled set instead, and a report written, in a folder of its
    own below results/RUN/external/ (a bundle: results/external/). Nothing is chosen or fitted on that set, and images
    that are copies of training or validation images are left out.

    Args:
        run: name of a run, such as phantom/stratified.
        data: another labelled set, in any form that train takes.
        model: with --data, an exported model in the place of a run, such as models/phantom/stratified/bundle.
        target: sensitivity for the positive class on the validation part for which to choose a threshold, besides 0.9.
        positive: the class that the thresholds are for; recorded for the other verbs. Default: as recorded, else the
            key positive of the pipeline file, else malignant, else of two classes the one beside normal, healthy,
            control, negative or no finding; else it has to be given.
        prevalence: shares of positive patients, separated by commas, to compute PPV and NPV for; recorded for report.
            Default: 0.01,0.05,0.2.
        again: predict again even if these weights were scored before.
        settings: how to run the model.
    """
    if (run is None) == (model is None) or (model is not None and data is None):
        raise UserError("evaluate needs --run=RUN (a run) or, with --data=SET (another labelled set), --model=FOLDER "
                        "(an exported model), not both.")
    flags = model_flags(**settings)
    if data is not None:
        subject = {"bundle": model} if run is None else {"run": find_single(run)}
        from busfast.data.open_data import find_data
        from busfast.inference.find_model import find_bundle

        if model is not None:
            find_bundle(model)
        find_data(data)
        from busfast.results.evaluation import check_target
        from busfast.results.predictive_values import check_prevalences

        check_target(target)
        check_prevalences(prevalence)
        with heavy_imports():
            from busfast.results.external import evaluate_external

        evaluate_external(data, **subject, target=target, positive=positive, prevalence=prevalence, again=again,
                          **flags)
        return None
    found = find_single(run)
    from busfast.results.evaluation import evaluate_run
    from busfast.results.multi_label import evaluate_labels
    from busfast.training.trackers import track_results

    several = bool(found.read_config()[0].label_delim)
    if several:
        for flag, value in {"positive": positive, "prevalence": prevalence}.items():
            if value:
                raise UserError(f"--{flag}={value}: {run} has images of several labels, and a threshold for each. "
                                "Leave it out.")
        evaluate_labels(found, again=again, **flags)
    else:
        evaluate_run(found, target=target, positive=positive, prevalence=prevalence, again=again, **flags)
    track_results(found)
    return parse.command("export" if several else "explain", {"run": found.name}, explain)


@with_settings(MODEL, device="as in training", threads="as in training")
def explain(*, run: str, images: str = None, out: str = None, **settings: Any) -> str | None:
    """Shows where a run's model looks (Grad-CAM), and whether it uses shortcuts; run evaluate first.

    Writes explain.png (right and wrong cases), localisation.csv (maps against lesion masks) and probes.csv (lesion or
    border covered, center predicted from features; validation part) into results/RUN/; report shows them.

    Args:
        run: name of a run, such as phantom/stratified.
        images: explain these instead: an image, a folder, or a CSV file with a column image.
        out: folder for the pictures of these images. Default: results/RUN/explain.
        settings: how to run the model.
    """
    found = find_single(run)
    if out and not images:
        raise UserError(f"--out={out} does not apply without --images. Leave it out.")
    flags = model_flags(**settings)
    if images:
        from busfast.inference.inputs import list_inputs

        names, paths = list_inputs(images)
    with heavy_imports():
        from busfast.results.evaluation import read_explanation
        from busfast.results.explain import explain_inputs, explain_run
        from busfast.results.printing import print_explanation
        from busfast.training.trackers import track_results

    if images:
        files = explain_inputs(found, names, paths, Path(out) if out else found.results / "explain", **flags)
        print(f"wrote {counted(len(files), 'picture')} into {files[0].parent}/")
        return None
    files = explain_run(found, **flags)
    print_explanation(found.name, *read_explanation(found))
    track_results(found)
    print(f"wrote {', '.join(map(str, files))}")
    return parse.command("report", {"run": found.name}, report)


def report(*, run: str, target: float = 0.9, positive: str = None, prevalence: str = None) -> str:
    """Writes results/RUN/report.html and model_card.md of an evaluated run, from its predictions.csv.

    Args:
        run: name of a run that evaluate has scored.
        target: sensitivity for the positive class on the validation part for which to choose a threshold, besides 0.9.
        positive: the class that the thresholds are for. Default: see evaluate.
        prevalence: shares of positive patients to compute PPV and NPV for; recorded. Default: see evaluate.
    """
    found = find_single(run)
    from busfast.results.evaluation import read_explanation
    from busfast.results.report import write_report
    from busfast.training.trackers import track_results

    for path in write_report(found, target=target, positive=positive, prevalence=prevalence):
        print(f"wrote {path}")
    if read_explanation(found) is None:
        print("the report has no Grad-CAM and no shortcut probes yet. To add them, run this, then report again:\n  "
              + parse.command("explain", {"run": found.name}, explain))
    track_results(found)
    return parse.command("export", {"run": found.name}, report)


def compare(runs: str = None, *, all: bool = False) -> None:
    """Prints a table of runs, the best on validation first.

    Writes results/compare.csv (all columns), compare.md and, for evaluated runs, differences.csv and compare.png.

    Args:
        runs: names of runs, separated by commas. Default: those of the pipeline that was trained last.
        all: the runs of all pipelines.
    """
    if runs and all:
        raise UserError(f"--runs={runs} and --all both say which runs. Leave one of them out.")
    from busfast.results.compare import compare_runs, print_comparison

    print_comparison(*compare_runs(runs, all))
