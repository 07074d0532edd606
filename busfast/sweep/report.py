"""The results of a sweep: trials.csv, best.yaml, history.png, importance.png, and lines on screen."""

import warnings
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from busfast.csvfile import write_csv
from busfast.figures import GRAY, STYLES, add_legend, new_figure, save_figure
from busfast.files import atomic
from busfast.sweep.space import apply, format_values
from busfast.sweep.study import STATES, Sweep
from busfast.sweep.trial import trial_name
from busfast.text import counted
from busfast.training.runs import Run, plain_values, train_command

BEST, TRIALS = "best.yaml", "trials.csv"
MIN_TRIALS = 8  # finished trials for an estimate of importance
BEST_SHARE = 0.25  # of the trials, which importance tells from the others


def write_tables(sweep: Sweep, pipeline: str, record: dict[str, Any]) -> None:
    """Writes trials.csv and, once a trial is finished, best.yaml; called after each trial.
    `pipeline` names the runs that best.yaml trains; `record`: split, fold and leaks, as in a run's record."""
    folder = sweep.run.results
    write_csv(sweep.table(), folder / TRIALS, float_format="%.6g")
    if (best := sweep.best()) is None:
        return
    config = Run(f"{sweep.run.name}/{trial_name(best.number)}").read_config()[0]  # with the held-out centers
    values = plain_values(apply(sweep.config, best.params)) | {"holdout": list(config.holdout)}
    text = yaml.safe_dump(values | {"run": {"pipeline": pipeline}}, sort_keys=False, allow_unicode=True)
    with atomic(folder / BEST) as file:
        file.write(f"# Trial {best.number} of {sweep.run.name}, the best of {len(sweep.done())} by "
                   f"{sweep.request.objective} of the validation part.\n"
                   f"# To train it: {train_command(sweep.run, record, BEST)}\n{text}")


def format_trial(sweep: Sweep, trial: FrozenTrial) -> str:
    """Returns the line on screen of a trial that has ended."""
    outcome, done, best = trial.user_attrs["outcome"], sweep.done(), sweep.best()
    fields = [f"[{len(done)}/{sweep.request.trials}] trial {trial.number}: {format_values(trial.params)}"]
    if outcome["state"] == "failed":
        fields.append(f"failed: {outcome['reason']}")
    else:
        fields.append(f"{sweep.request.objective} {trial.value:.3f} "
                      + ("(pruned)" if outcome["state"] == "pruned" else f"(epoch {outcome['epoch']})"))
    if best is not None:
        fields.append(f"best {best.value:.3f} (trial {best.number})")
    if left := sweep.request.trials - len(done):
        minutes = sum(ended.user_attrs["outcome"]["minutes"] for ended in done) / len(done)
        fields.append(f"about {left * minutes / sweep.request.jobs:.1f} min left")
    return " | ".join(fields)


def write_end(sweep: Sweep, record: dict[str, Any], caption: str) -> None:
    """Draws the figures, with `caption` as small print, and prints the summary; `record` as for `write_tables`."""
    done, best, objective = sweep.done(), sweep.best(), sweep.request.objective
    folder = sweep.run.results
    states = [trial.user_attrs["outcome"]["state"] for trial in done]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    print(f"\n{sweep.run.name}: {counted(len(done), 'trial')}: {counts}")
    if best is None:
        print(f"  no trial finished: see {folder}/{TRIALS}")
        return
    files = [TRIALS, BEST, "history.png"]
    draw_history(sweep, folder / "history.png", caption)
    print(f"  best: trial {best.number}, {objective} {best.value:.3f} (validation): {format_values(best.params)}")
    own = next((trial for trial in done if trial.user_attrs["place"] == 0 and trial.value is not None), None)
    if own and not sweep.outside:
        print(f"  the pipeline's own values (trial {own.number}): {own.value:.3f}")
    shares = find_importance(sweep)
    if shares:
        draw_importance(shares, folder / "importance.png", f"{caption}; {states.count('finished')} finished trials")
        files.append("importance.png")
        print("  importance: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()))
    elif len(sweep.own) > 1:
        print(f"  importance: needs {MIN_TRIALS} finished trials")
    print(f"  {', '.join(files)} in {folder}/")
    print(f"  The best of {counted(len(done), 'trial')} was chosen by this validation part, so its value is too good. "
          "Train it again, with\n  several seeds (--seeds=3), and score the test part once, with `evaluate`:\n"
          f"  {train_command(sweep.run, record, BEST)}")


def find_importance(sweep: Sweep) -> dict[str, float]:
    """Returns how much each key decides whether a finished trial is among the best quarter; {} for too few trials.
    Source: Watanabe et al. 2023, "PED-ANOVA" (arXiv 2304.10255), through Optuna."""
    finished = [trial for trial in sweep.done() if trial.state == TrialState.COMPLETE]
    if len(finished) < MIN_TRIALS or len(sweep.own) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna, if all trials are equal
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        return optuna.importance.get_param_importances(sweep.study, evaluator=evaluator)


def draw_history(sweep: Sweep, path: Path, caption: str) -> None:
    """Draws the value of each trial and the best so far."""
    figure, (axes,) = new_figure(f"{sweep.request.objective} of each trial, validation", caption)
    done = sweep.done()
    lower = sweep.study.direction == optuna.study.StudyDirection.MINIMIZE
    marks = {"finished": {"color": STYLES[0]["color"], "marker": "o"}, "pruned": {"color": "0.6", "marker": "v"}}
    for state, mark in marks.items():
        drawn = [trial for trial in done if trial.user_attrs["outcome"]["state"] == state and trial.value is not None]
        if drawn:
            axes.scatter([trial.number for trial in drawn], [trial.value for trial in drawn], label=state, **mark)
    values = pd.Series({trial.number: trial.value if trial.state == TrialState.COMPLETE else None for trial in done},
                       dtype=float)
    best = (values.cummin() if lower else values.cummax()).ffill()
    axes.step(best.index, best, where="post", label="best so far", linestyle="--", color=STYLES[1]["color"])
    failed = [trial.number for trial in done if trial.state == TrialState.FAIL]
    if failed:
        axes.scatter(failed, [0.02] * len(failed), transform=axes.get_xaxis_transform(), label="failed",
                     color=STYLES[6]["color"], marker="x")
    axes.set(xlabel="trial", ylabel=sweep.request.objective)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    add_legend(axes)
    save_figure(figure, path)


def draw_importance(shares: dict[str, float], path: Path, caption: str) -> None:
    """Draws how much each key decides."""
    figure, (axes,) = new_figure("What decides whether a trial is among the best quarter", caption, grid="x")
    bars = axes.barh(list(shares), list(shares.values()), color=STYLES[0]["color"])
    axes.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=8, color=GRAY)
    axes.set(xlabel="share (PED-ANOVA); a hint at most, if trials are few", xlim=(0, 1.08))
    axes.invert_yaxis()
    save_figure(figure, path)
