"""The verbs that train: train, lr_find and sweep."""

import importlib.util
import shlex
from collections.abc import Callable

from busfast import processes
from busfast.cli import parse
from busfast.cli.data import configure
from busfast.cli.results import evaluate, explain, print_comparison, report
from busfast.errors import UserError, choose

# What train may go on with.
THEN: dict[str, Callable[..., None]] = {"evaluate": evaluate, "explain": explain, "report": report}
MEANT_FOR = {"holdout": "center_holdout", "folds": "kfold"}  # flag -> the split that it is of


def train(split: str = "stratified", pipeline: str = None, data: str = None, holdout: str = None, folds: int = None,
          fold: str = None, allow_leaks: bool = False, epochs: int = None, size: int = None, bs: int = None,
          lr: float = None, lr_min: float = None, patience: int = None, monitor: str = None, arch: str = None,
          weights: str = None, seed: int = None, loader: str = None, device: str = None, threads: int = None,
          cache: str = None, preset: str = None, freeze: int = None, freeze_after: int = None,
          profile: bool = False, then: str = None, tracker: str = None,
          resume: bool = False, seeds: str = None, split_seed: int = None, jobs: int = 1) -> None:
    """Trains a split (each of its folds, or all splits) of a set of images and writes results/ and models/.

    Flags that are left out keep the value of the pipeline file, or else the default given here.

    Args:
        split: stratified, center_holdout, leave_one_center_out, kfold, or all (those that the pipeline file lists,
            then the comparison). Or the path of lists made elsewhere, a CSV file with the columns image and part or
            a folder with train.csv, val.csv and test.csv (FOLDER/NAME for NAME_train.csv and so on).
        pipeline: name of a file in pipelines/, or the path of one (a run's config.yaml too). Default: the one named
            after the data folder, else phantom.
        data: folder with table.csv and the images.
        holdout: centers to hold out as the test part of center_holdout, separated by commas.
        folds: number of folds of kfold. Default 5.
        fold: train this fold alone: a number (kfold) or a center (leave_one_center_out).
        allow_leaks: train all the same where a patient or a copy is on two sides of lists; the run is marked.
        epochs: number of epochs; the learning rate falls over all of them. Default 50.
        size: side of the model's input, pixels. Default 224.
        bs: images a batch. Default 32. auto: that, or the largest power of two that fits into memory.
        lr: learning rate at the start. Default 1e-3.
        lr_min: learning rate at the end. Default 1e-6.
        patience: epochs without a better monitor before it stops early. Default 7.
        monitor: logged column that chooses the best epoch: val_loss, val_acc, macro_auc, recall_CLASS, train_loss.
        arch: any timm model. Default efficientnet_b0.
        weights: auto, none, or a file (safetensors or weights-only checkpoint).
        seed: of split, weights, order and augmentation. Default 42.
        loader: auto, dali or torchvision, for training; validation has the same reference pixels with each.
        device: auto, cuda, mps or cpu.
        threads: decoding threads; 0: one a core.
        cache: where decoded pixels are kept for later epochs and runs, auto (this user's cache folder), off or a
            folder.
        preset: fast, a recipe of 4 epochs, smaller images and steps, and first stages that are frozen after one epoch
            (docs/performance.md).
        freeze: how many of the model's first stages are not trained; the stem is the first. Default 0.
        freeze_after: number of epochs in which they are, before that. Default 0.
        profile: print after each epoch where its time went.
        then: what to do with each run that is done: evaluate, explain, report, separated by commas; evaluate comes
            first and with each of them.
        tracker: tensorboard, wandb, mlflow, separated by commas: curves, configuration, tables and report go there,
            too, and stay on this machine (docs/trackers.md).
        resume: go on with the newest run of each split after its last epoch, to the very result that it would have had
            without a stop; what is done is left alone, what is not there begins.
        seeds: train each split with several seeds of weights, order and augmentation: how many, from seed on, or the
            seeds, separated by commas. The split is that of the first one. Runs are named SPLIT-seedSEED.
        split_seed: of the split alone, where it shall not follow seed.
        jobs: runs that are trained side by side, each on its share of the cores, or on a GPU of its own. Default 1.
    """
    given = dict(locals())
    typed = processes.launch_command(parse.command("train", given | {"resume": False}, train))
    flags = {key: value for key, value in given.items() if key not in (
        "split", "fold", "allow_leaks", "profile", "then", "tracker", "resume", "seeds", "jobs")}
    auto_bs = bs == "auto"
    flags["bs"] = None if auto_bs else bs
    following = [choose("verb after train", word.strip(), THEN) for word in (then or "").split(",") if word.strip()]
    name, config, splits = _configure(split, flags, several=True)
    from busfast.pipelines.splits import list_seeds, name_run, split_data
    from busfast.results.compare import compare_runs
    from busfast.training.parallel_runs import check_jobs, run_jobs
    from busfast.training.trackers import choose_trackers
    from busfast.training.train import check_environment, load_table, train_run

    trackers = choose_trackers(tracker)
    configs = list_seeds(seeds, config, given=seed is not None) if seeds else [config]
    device = check_environment(config)
    jobs = check_jobs(jobs, device)
    table, duplicates = load_table(configs[0], splits, fold)
    # Each split is made before the first one trains, so that one that cannot be made costs no time.
    runs = [(name_run(run, of_seed), of_seed, parts) for one in splits
            for run, parts in split_data(table, duplicates, configs[0], one, fold=fold, allow_leaks=allow_leaks).items()
            for of_seed in configs]
    failed = []
    if min(jobs, len(runs)) > 1:
        given["threads"] = config.threads or processes.share_cores(jobs)
        try:
            failed = run_jobs({run: _words(given, of_seed, parts) for run, of_seed, parts in runs}, jobs, device)
        except (KeyboardInterrupt, SystemExit):
            print(f"\n  to go on with all of them: {typed} --resume", flush=True)
            raise
    else:
        for run, of_seed, parts in runs:
            done = train_run(name, of_seed, run, parts, profile, resume, auto_bs, typed, trackers)
            for verb, then_do in THEN.items():  # in this order, whatever order they were named in
                if verb in following or (following and verb == "evaluate"):  # which the others need
                    then_do(run=done.name)
    if 1 < len(runs) > len(failed):
        print_comparison(*compare_runs())
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}. Their lines above say why; "
                        f"the others are done. To go on with them: {typed} --resume")


def lr_find(split: str = "stratified", pipeline: str = None, data: str = None, holdout: str = None, fold: str = None,
            size: int = None, bs: int = None, arch: str = None, weights: str = None, seed: int = None,
            loader: str = None, device: str = None, threads: int = None, cache: str = None) -> None:
    """Suggests a learning rate (fastai's finder) and draws results/PIPELINE/lr_find-SPLIT/lr_find.png.

    Args:
        split: a split, as for train.
        pipeline: name of a file in pipelines/, or the path of one.
        data: folder with table.csv and the images.
        holdout: centers to hold out, separated by commas (center_holdout).
        fold: the fold to use, if the split has several; default: the first.
        size: side of the model's input, pixels.
        bs: images a batch.
        arch: any timm model.
        weights: auto, none, or a file.
        seed: of split, weights, order and augmentation.
        loader: auto, dali or torchvision.
        device: auto, cuda, mps or cpu.
        threads: decoding threads; 0: one a core.
        cache: auto, off or a folder, as for train.
    """
    flags = dict(locals())
    del flags["split"], flags["fold"]
    name, config, _ = _configure(split, flags)
    from busfast.pipelines.splits import split_data
    from busfast.training.lr_find import find_lr
    from busfast.training.train import check_environment, load_table

    check_environment(config)
    table, duplicates = load_table(config, [split], fold)
    run, parts = next(iter(split_data(table, duplicates, config, split, fold=fold).items()))
    suggested, folder = find_lr(name, config, run, parts)
    print(f"suggested learning rate: {suggested:.2e}   (train with --lr={suggested:.1e})")
    print(f"curve: {folder}/lr_find.png, lr_find.csv")


def sweep(split: str = "stratified", params: str = "lr,size,augment", trials: int = 20, jobs: int = 1,
          objective: str = "macro_auc", pruner: str = "median", pipeline: str = None, data: str = None,
          holdout: str = None, folds: int = None, fold: str = None, allow_leaks: bool = False, epochs: int = None,
          size: int = None, bs: int = None, lr: float = None, lr_min: float = None, patience: int = None,
          monitor: str = None, arch: str = None, weights: str = None, seed: int = None, loader: str = None,
          device: str = None, threads: int = None, cache: str = None, preset: str = None, freeze: int = None,
          freeze_after: int = None, resume: bool = False) -> None:
    """Trains a split many times, each time with other values, and finds the best by the validation part (Optuna).

    Writes results/PIPELINE/sweep-SPLIT/: trials.csv, history.png, importance.png, and best.yaml for train --pipeline.
    The trials are given a table without the test part. Needs Optuna: pip install optuna. More in docs/sweep.md.

    Args:
        split: a split, as for train.
        params: what to vary, separated by commas: lr, lr_min, wd, dropout, size, bs, arch, freeze, augment (how much).
            With own values: lr=1e-4:1e-2 (from, to) or bs=16/32/64.
        trials: how many trainings, those before --resume included.
        jobs: how many of them side by side, each in a process with its share of the cores.
        objective: logged column of the validation part that is to become as good as it can, at the epoch that the
            monitor chooses.
        pruner: median (a trial worse than the median of the earlier ones is given up, after a third of the epochs) or
            none.
        pipeline: name of a file in pipelines/, or the path of one.
        data: folder with table.csv and the images.
        holdout: centers to hold out, separated by commas (center_holdout).
        folds: number of folds (kfold).
        fold: the fold to use, if the split has several; default: the first.
        allow_leaks: train all the same where a patient or a copy is on two sides of lists.
        epochs: number of epochs of each trial.
        size: side of the model's input, pixels; if it is varied, around that. So it is with bs, lr, lr_min, arch and
            freeze.
        bs: images a batch.
        lr: learning rate at the start.
        lr_min: learning rate at the end.
        patience: epochs without a better monitor before a trial stops early.
        monitor: logged column that chooses the best epoch.
        arch: any timm model.
        weights: auto, none, or a file.
        seed: of split, weights, order and augmentation, the same in every trial; and of what is tried.
        loader: auto, dali or torchvision.
        device: auto, cuda, mps or cpu.
        threads: decoding threads; 0: one a core.
        cache: auto, off or a folder, as for train.
        preset: fast, as for train.
        freeze: how many of the model's first stages are not trained.
        freeze_after: number of epochs in which they are, before that.
        resume: go on with the newest sweep of this split; a trial that was interrupted begins again.
    """
    flags = dict(locals())
    typed = parse.command("sweep", flags | {"resume": False}, sweep)
    for own in ("split", "params", "trials", "jobs", "objective", "pruner", "fold", "allow_leaks", "resume"):
        del flags[own]
    if importlib.util.find_spec("optuna") is None:  # said before anything that takes time
        raise UserError("A sweep needs Optuna: pip install optuna")
    name, config, _ = _configure(split, flags)
    from busfast.pipelines.splits import split_data
    from busfast.sweep import check_request, run_sweep
    from busfast.training.train import load_table

    request = check_request(config, params, trials, jobs, objective, pruner)
    table, duplicates = load_table(config, [split], fold)
    run, parts = next(iter(split_data(table, duplicates, config, split, fold=fold, allow_leaks=allow_leaks).items()))
    run_sweep(name, request, run, parts, resume, typed)


def _words(given: dict, config, parts) -> list[str]:
    """Returns the words after `python -m busfast` that train one run of those that a line asks for."""
    own = {"split": parts.attrs["split"], "fold": parts.attrs["fold"] or None, "seeds": None, "jobs": 1}
    own |= {flag: None for flag, split in MEANT_FOR.items() if own["split"] != split}
    if given["seeds"]:
        own |= {"seed": config.seed, "split_seed": config.split_seed}
    return shlex.split(parse.command("train", given | own, train))[3:]


def _configure(split: str, flags: dict, several: bool = False):
    """Checks split and configuration; returns the pipeline's name, the configuration and the splits to run."""
    from busfast.data.external_splits import is_list_path
    from busfast.data.sources import refuse_source
    from busfast.data.split import SPLITS
    from busfast.data.table import read_table

    if not is_list_path(split):
        choose("split", split, [*SPLITS, "all"] if several else SPLITS)
    name, config = configure(**flags)
    if not config.source:
        refuse_source(config.data)
        read_table(config.data, config.classes)  # a wrong table is refused before torch and fastai are imported
    splits = config.splits if split == "all" else (split,)
    for flag, own in MEANT_FOR.items():
        if flags.get(flag) and own not in splits:
            raise UserError(f"--{flag}={flags[flag]} has no meaning for --split={split}. "
                            f"Use it with {own}, or leave it out.")
    print(f"pipeline: {name}", flush=True)
    return name, config, splits
