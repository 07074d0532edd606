"""The verbs that look at trained runs: evaluate, explain, report, compare."""

from pathlib import Path
from typing import TYPE_CHECKING

from busfast.cli.flags import model_flags
from busfast.errors import UserError

if TYPE_CHECKING:  # the verbs import what is heavy
    import pandas as pd


def evaluate(*, run: str, target: float = 0.9, positive: str = None, again: bool = False, bs: int = 32,
             device: str = None, threads: int = None) -> None:
    """Scores a run's validation and test part, with intervals; writes predictions.csv and tables beside it.

    The test part is predicted once for given weights; each time is recorded in results/RUN/evaluation.yaml.

    Args:
        run: name of a run, such as phantom/stratified.
        target: sensitivity that a threshold for the positive class shall reach on the validation part, besides 0.9.
        positive: the class that thresholds are for; default: malignant, or else the last class.
        again: predict again even if these weights were scored before.
        bs: images a batch.
        device: auto, cuda, mps or cpu; default: as in training.
        threads: decoding threads; 0: one a core.
    """
    from busfast.training.runs import find_run

    found = find_run(run)
    flags = model_flags(bs=bs, device=device, threads=threads)
    from busfast.results.evaluation import evaluate_run
    from busfast.training.trackers import track_results

    evaluate_run(found, target=target, positive=positive, again=again, **flags)
    track_results(found)


def explain(*, run: str, images: str = None, out: str = None, bs: int = 32, device: str = None,
            threads: int = None) -> None:
    """Shows where a run's model looks (Grad-CAM), and whether it takes shortcuts; needs `evaluate` first.

    Writes explain.png (right and wrong cases), localisation.csv (maps against lesion masks) and probes.csv (lesion or
    border covered, center from features; validation part) into results/RUN/; `report` shows them.

    Args:
        run: name of a run, such as phantom/stratified.
        images: explain these instead: an image, a folder, or a CSV file with a column image.
        out: folder for the pictures of these images. Default: results/RUN/explain.
        bs: images a batch.
        device: auto, cuda, mps or cpu; default: as in training.
        threads: decoding threads; 0: one a core.
    """
    from busfast.training.runs import find_run

    found = find_run(run)
    if out and not images:
        raise UserError(f"--out={out} has no meaning without --images. Leave it out.")
    flags = model_flags(bs=bs, device=device, threads=threads)
    from busfast.results.evaluation import print_explanation
    from busfast.results.explain import explain_inputs, explain_run
    from busfast.training.trackers import track_results

    if images:
        files = explain_inputs(found, images, Path(out) if out else found.results / "explain", **flags)
        print(f"wrote {len(files)} pictures into {files[0].parent}/. Research only, not a medical device.")
    else:
        files = explain_run(found, **flags)
        print_explanation(found)
        track_results(found)
        print(f"wrote {', '.join(map(str, files))}. Research only, not a medical device.")


def report(*, run: str, target: float = 0.9, positive: str = None) -> None:
    """Writes results/RUN/report.html and model_card.md of an evaluated run, from its predictions.csv alone.

    Args:
        run: name of a run that `evaluate` has scored.
        target: a sensitivity to choose a threshold for, besides 0.9.
        positive: the class that thresholds are for; default: malignant, or else the last class.
    """
    from busfast.training.runs import find_run

    found = find_run(run)
    from busfast.results.report import write_report
    from busfast.training.trackers import track_results

    for path in write_report(found, target=target, positive=positive):
        print(f"wrote {path}")
    track_results(found)
    print("Research only, not a medical device.")


def compare(runs: str = None) -> None:
    """Prints the table of runs and, where they were evaluated, the differences of their test scores.

    Writes results/compare.csv, compare.md and, of evaluated runs, differences.csv and compare.png.

    Args:
        runs: names of runs, separated by commas. Default: all.
    """
    from busfast.results.compare import compare_runs

    print_comparison(*compare_runs(runs))


def print_comparison(table: "pd.DataFrame", gaps: list[str], files: list[Path]) -> None:
    same = [name for name in ("data", "state", "model", "size", "loader") if table[name].nunique() == 1]
    print("\n" + ", ".join(f"{name}: {table[name].iloc[0]}" for name in same))  # not in every row: terminals are narrow
    print(table.drop(columns=same).round(3).to_string(index=False))
    for gap in gaps:
        print(f"\n{gap}")
    print(f"wrote {', '.join(map(str, files))} (figures are of the validation part unless they begin with test_)")
