"""The verbs that train: train, lr_find and sweep."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busfast import processes
from busfast.cli import parse
from busfast.cli.flags import configure, flatten, read_keys, with_settings, without
from busfast.cli.models import ensemble, export, predict_with
from busfast.cli.results import compare, evaluate, explain, report
from busfast.errors import UserError, choose
from busfast.imports import heavy_imports, require_package
from busfast.pipelines.config import MEMBERS, Config, require_weights
from busfast.pipelines.pipeline_file import describe_source, folder_name
from busfast.timm_names import refuse_unknown_model
from busfast.training.runs import find_other_images

if TYPE_CHECKING:
    from busfast.data.split import Split
    from busfast.data.table import Table
    from busfast.training.runs import Run

# After training, in this order.
THEN: dict[str, Callable[..., str | None]] = {"evaluate": evaluate, "explain": explain, "report": report,
                                               "export": export}
SEVERAL_LABELS = ("evaluate", "export")  # those that take images of several labels
SPLIT_OF = {"holdout": "center_holdout", "folds": "kfold"}  # flag -> the only split that uses it


@with_settings(bs=f"{Config.bs}; auto: that, or the largest power of two that fits into memory")
def train(*, split: str = None, pipeline: str = None, preset: str = None, fold: str = None,
          allow_leaks: bool = False, seeds: str = None, jobs: int = 1, then: str = None, tracker: str = None,
          learner: str = None, set: str = None, profile: bool = False, resume: bool = False,
          **settings: Any) -> str | None:
    """Trains one split (each of its folds) or all splits of a set of images; writes results/ and models/.

    Flags that are left out keep the value of the pipeline file, or else the default given here.

    Args:
        split: stratified, center_holdout, leave_one_center_out, kfold, given or original (the folders train, valid and
            test, or the column, that the images came with), or all (those that the pipeline file lists, then the
            comparison). Or the path of your own lists: a CSV file with the columns image and part, or a folder with
            train.csv, val.csv and test.csv (FOLDER/NAME for NAME_train.csv and so on). Default: given, if images
            without a table.csv came with a split, else stratified.
        pipeline: name of a file in pipelines/, or the path of one, such as a run's config.yaml. Default: the one named
            after the data folder, else phantom.
        preset: fast: 4 epochs with smaller images and batches; the model's first stages are frozen after the first
            epoch, unless it is the only one (docs/performance.md). best: the settings of fast, freezing included, with
            three seeds (--seeds); their ensemble, which also averages each image with its mirror image (--tta=flip), is
            the run that --then goes on with (docs/travel.md).
        settings: those of the pipeline file.
        fold: train this fold only: a number (kfold) or a center (leave_one_center_out).
        allow_leaks: train even if a patient or a duplicate is on two sides of your own lists, and do not leave such
            images out of the split that they came with; the run is marked.
        seeds: train each split with several seeds of weights, order and augmentation: how many, counted from seed, or
            the seeds, separated by commas. The split is that of the first one. Runs are named SPLIT-seedSEED.
        jobs: number of runs to train in parallel, each on its share of the cores or on a GPU of its own.
        then: what to do with each finished run: evaluate, explain, report, export, separated by commas, or all.
            Evaluate always comes first.
        tracker: tensorboard, wandb, mlflow, separated by commas: log curves, configuration, tables and report there,
            too; nothing leaves this machine (docs/trackers.md).
        learner: a Python file whose function learner(learn) changes the Learner before it trains, such as its loss_func
            or callbacks. The file is run; a copy goes into the run's folder.
        set: any keys of the pipeline file, also those without a flag: KEY=VALUE, separated by commas.
        profile: print after each epoch where its time went.
        resume: continue the latest run from its last checkpoint; finished runs are skipped.
    """
    given = flatten(locals())
    typed = processes.launch_command(parse.command("train", given | {"resume": False}, train))
    settings = read_keys(set, settings)
    auto_bs = settings.get("bs") == "auto"
    if auto_bs:
        del settings["bs"]
    following = [choose("verb after train", name.strip(), [*THEN, "all"])
                 for name in (then or "").split(",") if name.strip()]
    name, config, splits, table = _configure(split, pipeline, preset, settings, learner, several=True)
    if "all" in following:
        following = list(SEVERAL_LABELS if config.label_delim else THEN)
    if config.label_delim and (wrong := [verb for verb in following if verb not in SEVERAL_LABELS]):
        raise UserError(f"--then={','.join(wrong)} is for images of one label. With label_delim: "
                        f"--then={','.join(SEVERAL_LABELS)}.")
    members = MEMBERS.get(preset, 0) if "split_seed" not in settings else 0  # that seed is of one member
    if members and config.label_delim:
        raise UserError(f"--preset={preset} is for images of one label. With label_delim: --preset=fast.")
    if members:
        seeds = seeds or str(members)
    if following and not config.label_delim:
        from busfast.pipelines.positive import require_positive

        require_positive(config, name)  # evaluate would ask after the training
    from busfast.pipelines.splits import list_seeds, name_run, open_table, split_images
    from busfast.training.parallel_runs import check_jobs, run_jobs

    jobs = check_jobs(jobs)
    configs = list_seeds(seeds, config, given="seed" in settings) if seeds else [config]
    if seeds:
        listed = ", ".join(str(each.seed) for each in configs)
        print(f"seeds: {len(configs)} trainings of each split ({listed})"
              + (", then their mean as one run" if members else ""))
    _try_splits(table, configs[0], splits, fold, allow_leaks)
    with heavy_imports():
        from busfast.training.trackers import choose_trackers
        from busfast.training.user_learner import load_user_learner

        trackers = choose_trackers(tracker)  # a misspelt name or file is refused before torch is imported
        user_learner = load_user_learner(learner) if learner else None

        from busfast.training.build import check_environment
        from busfast.training.job import TrainOptions
        from busfast.training.turns import Training, find_done, pass_over, say_how_to_go_on, train_in_turn

    backend = check_environment(config)
    jobs = check_jobs(jobs, backend.device)
    table = open_table(config, table)
    # All splits are made before the first one trains, so that one that cannot be made costs no time.
    trainings = [Training(name_run(run, seed_config), seed_config, made)
                 for run, made in split_images(table, configs[0], splits, fold=fold, allow_leaks=allow_leaks).items()
                 for seed_config in configs]
    count = len(trainings)
    options = TrainOptions(resume, auto_bs, profile, typed, trackers, backend=backend, learner=user_learner,
                           several=count > 1 or "split_seed" in settings)
    each = () if members else following  # what each run goes on with; of the preset best, only their mean does
    failed: list[str] = []
    nexts: list[str | None] = []
    with say_how_to_go_on(f"{typed} --resume"):
        done = find_done(name, trainings, options) if resume else {}
        pass_over(done, trainings)
        if min(jobs, count) > 1:
            given |= {"threads": config.threads or processes.threads_per_process(jobs), "seeds": seeds}
            given["then"] = then if each else None
            lines: dict[str, Sequence[str]] = {
                one.name: _argv(given, one.config, one.split) for one in trainings if each or one.name not in done}
            failed = run_jobs(lines, jobs, backend.device) if lines else []
            runs = [*find_done(name, [one for one in trainings if one.name not in failed], options).values()]
        else:
            follow = (lambda run: nexts.append(_follow(run, each, config))) if each else None
            runs = train_in_turn(name, trainings, options, done, follow, more=bool(members and following))
        if members and not failed:
            from busfast.results.ensemble import make_ensemble

            runs = [make_ensemble(runs[first:first + len(configs)]) for first in range(0, count, len(configs))]
            nexts += [_follow(run, following, config) for run in runs]
        several = count > (len(configs) if members else 1)
        if several and runs:
            compare(",".join(run.name for run in runs))
    if failed:
        raise UserError(f"{len(failed)} of {count} runs failed: {', '.join(failed)}. The reasons are above; the other "
                        f"runs are finished. To continue the failed ones: {typed} --resume")
    if several and not following:
        return f"{typed} --resume --then=evaluate"  # finished runs are not trained again
    if several and not members and not config.label_delim:
        from busfast.results.run_groups import find_groups

        groups = find_groups(runs)
        if [(group.kind, len(group.runs)) for group in groups] == [("seeds", count)]:
            return parse.command("ensemble", {"runs": groups[0].name}, ensemble)
    if following or members:
        return nexts[-1] if nexts else None
    return _next_of(runs[-1], config)


def _next_of(run: "Run", config: Config) -> str:
    """Returns the command of the first verb, of those that follow a training, that a run has no files of."""
    from busfast.results.run_groups import is_scored

    bundle = run.models / "bundle"
    done = {"evaluate": is_scored(run), "explain": (run.results / "probes.csv").is_file(),
            "report": (run.results / "report.html").is_file(), "export": bundle.is_dir()}
    for verb in SEVERAL_LABELS if config.label_delim else THEN:
        if not done[verb]:
            return parse.command(verb, {"run": run.name}, THEN[verb])
    return predict_with(bundle)


@with_settings(without("folds", "freeze", "freeze_after", "unfreeze_after", "epochs", "lr", "lr_min", "lr_mult",
                       "warmup", "accumulate", "clip", "ema", "tta", "metrics", "patience", "monitor", "split_seed",
                       "schedule", "mixup", "cutmix", "positive"))
def lr_find(*, split: str = None, pipeline: str = None, fold: str = None, learner: str = None, set: str = None,
            **settings: Any) -> str:
    """Suggests a learning rate (fastai's finder) and draws results/PIPELINE/lr_find-SPLIT/lr_find.png.

    Args:
        split: a split, as for train.
        pipeline: name of a file in pipelines/, or the path of one.
        settings: those of the pipeline file.
        fold: which fold to use, if the split has several. Default: the first.
        learner: a Python file whose function learner(learn) changes the Learner, as for train.
        set: any keys of the pipeline file: KEY=VALUE, separated by commas.
    """
    given = flatten(locals())
    name, config, splits, table = _configure(split, pipeline, None, read_keys(set, settings), learner)
    from busfast.pipelines.splits import open_table, split_images

    _try_splits(table, config, splits, fold)
    with heavy_imports():
        from busfast.training.user_learner import load_user_learner

        user_learner = load_user_learner(learner) if learner else None

        from busfast.training.build import check_environment
        from busfast.training.lr_find import find_lr

    backend = check_environment(config)
    run, made = next(iter(split_images(open_table(config, table), config, splits, fold=fold).items()))
    suggested, folder = find_lr(name, config, run, made, backend, user_learner)
    print(f"curve: {folder}/lr_find.png, lr_find.csv")
    return parse.command("train", given | {"lr": f"{suggested:.1e}"}, train)


@with_settings(without("split_seed"))
def sweep(*, split: str = None, params: str = "lr,size,augment", trials: int = 20, jobs: int = 1,
          objective: str = "macro_auc", pruner: str = "median", pipeline: str = None, preset: str = None,
          fold: str = None, allow_leaks: bool = False, set: str = None, resume: bool = False, **settings: Any) -> None:
    """Trains one split many times with different values and finds the best ones by validation score (Optuna).

    Writes results/PIPELINE/sweep-SPLIT/: trials.csv, history.png, importance.png, and best.yaml for train --pipeline.
    The trials never see the test part, and all have the same seed. Needs Optuna: pip install optuna. See docs/sweep.md.

    Args:
        split: a split, as for train.
        params: what to vary, separated by commas: lr, lr_min, wd, dropout, size, bs, arch, freeze, augment, opt,
            schedule, label_smoothing, mixup. Each is varied around the value of its flag or of the pipeline file, or as
            given here: lr=1e-4:1e-2 (from, to) or bs=16/32/64.
        trials: number of trainings, including those before --resume.
        jobs: number of trials to train in parallel, each on its share of the cores.
        objective: logged validation column to optimize, at the epoch that the monitor chooses.
        pruner: median (stops a trial that is worse than the median of the earlier ones, after a third of the epochs)
            or none.
        pipeline: name of a file in pipelines/, or the path of one.
        preset: fast, as for train; of best, one member.
        settings: those of the pipeline file.
        fold: which fold to use, if the split has several. Default: the first.
        allow_leaks: train even if a patient or a duplicate is on two sides of your own lists.
        set: any keys of the pipeline file: KEY=VALUE, separated by commas.
        resume: continue the latest sweep of this split; an interrupted trial starts again.
    """
    typed = parse.command("sweep", flatten(locals()) | {"resume": False}, sweep)
    require_package("optuna", "A sweep needs Optuna", "pip install optuna")
    name, config, splits, table = _configure(split, pipeline, preset, read_keys(set, settings))
    from busfast.pipelines.splits import open_table, split_images
    from busfast.sweep.request import read_request

    request = read_request(config, params, trials, jobs, objective, pruner)
    _try_splits(table, config, splits, fold, allow_leaks)
    with heavy_imports():
        from busfast.sweep.run import check_models, run_sweep

    request = check_models(request, params)
    table = open_table(config, table)
    run, made = next(iter(split_images(table, config, splits, fold=fold, allow_leaks=allow_leaks).items()))
    run_sweep(name, request, run, made, resume, typed)


def _try_splits(table: "Table | None", config: Config, splits: Sequence[str], fold: str | None,
                allow_leaks: bool = False) -> None:
    """Makes splits of a table, so that one that cannot be made, of a center that it does not have, is refused before
    torch is imported and any image is read."""
    from busfast.data.duplicate_pairs import NO_DUPLICATES
    from busfast.pipelines.splits import make_folds

    for split in splits if table is not None else ():
        make_folds(table, NO_DUPLICATES, config, split, fold, allow_leaks)


def _refuse_shared_name(name: str, data: str, pipeline: str | None) -> None:
    """Refuses other images under the name of a pipeline that has runs, if it was taken from the name of their folder;
    says so if the user chose it."""
    where, other = find_other_images(name, data)
    if not other:
        return
    if pipeline:
        print(f"pipeline {name}: has runs of other images, too: {other} ({where})")
        return
    own = folder_name(f"{Path(data).resolve().parent.name}_{name}")
    raise UserError(f"--data={data}: {where} is of other images, {other}, in a folder of the same name, and both would "
                    f"be runs of the pipeline '{name}'. Give these a pipeline of their own: write `data: {data}` into "
                    f"pipelines/{own}.yaml, then --pipeline={own} in the place of --data.")


def _follow(run: "Run", following: Sequence[str], config: Config) -> str | None:
    """Does what --then asks for with a finished run; returns the command that is next."""
    last = parse.command("evaluate", {"run": run.name}, evaluate)
    for verb, function in THEN.items():  # in this order, whatever the order of --then
        if verb == "evaluate" and following:  # which the others need
            last = function(run=run.name, positive=config.positive or None)
        elif verb in following:
            last = function(run=run.name)
    return last


def train_folds(pipeline: str | None, **settings: Any) -> "list[Run]":
    """Trains all folds of a k-fold split with the settings of a pipeline file, and returns the runs."""
    name, config, splits, table = _configure("kfold", pipeline, None, settings)
    with heavy_imports():
        from busfast.pipelines.splits import open_table, split_images
        from busfast.results.predictions import require_single_label
        from busfast.training.build import check_environment
        from busfast.training.job import TrainOptions
        from busfast.training.turns import Training, train_in_turn

    require_single_label(config, "audit --labels")
    options = TrainOptions(backend=check_environment(config))
    made = split_images(open_table(config, table), config, splits)
    return train_in_turn(name, [Training(run, config, fold) for run, fold in made.items()], options, {})


def _argv(given: dict[str, Any], config: Config, made: "Split") -> list[str]:
    """Returns the arguments of `python -m busfast` that train one of the runs that a command asks for."""
    changed = {"split": made.name, "fold": made.fold or None, "seeds": None, "jobs": 1}
    changed |= {flag: None for flag, only_split in SPLIT_OF.items() if made.name != only_split}
    if given["seeds"]:
        changed |= {"seed": config.seed, "split_seed": config.split_seed}
    return shlex.split(parse.command("train", given | changed, train))[3:]


def _configure(split: str, pipeline: str | None, preset: str | None, settings: dict[str, Any],
               learner: str | None = None,
               several: bool = False) -> tuple[str, Config, tuple[str, ...], "Table | None"]:
    """Checks split, configuration and table, before anything heavy is imported.

    Returns:
        The pipeline's name, the configuration, the splits to run, and the table (None: it may have to be generated).
    """
    from busfast.data.external_splits import is_list_path
    from busfast.data.labels import CLASSES
    from busfast.data.open_data import is_prepared
    from busfast.data.split import ALIASES, SPLITS
    from busfast.pipelines.read_images import read_images
    from busfast.pipelines.splits import default_split

    split = ALIASES.get(split, split)
    if split and not is_list_path(split):
        choose("split", split, [*SPLITS, *ALIASES, *(["all"] if several else [])])
    name, config = configure(pipeline, preset=preset, **settings)
    _refuse_shared_name(name, config.data, pipeline)
    if not learner:  # whose file may add a model to timm's
        refuse_unknown_model(config.arch)
    require_weights(config.weights)
    table = None
    if not config.source or (Path(config.data) / "table.csv").is_file():  # else it is generated later
        table, config = read_images(config)
    elif not config.classes:
        config = replace(config, classes=CLASSES)  # of all that busfast generates
    if not split:
        split = "stratified" if table is None else default_split(table, is_prepared(config.data))
    splits = config.splits if split == "all" else (split,)
    for flag, only_split in SPLIT_OF.items():
        if settings.get(flag) and only_split not in splits:
            raise UserError(f"--{flag}={settings[flag]} does not apply to --split={split}. Use it with {only_split}, "
                            "or leave it out.")
    print(f"settings: {describe_source(pipeline or '', preset, **settings)}")
    return name, config, splits, table
