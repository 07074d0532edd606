"""The verbs that export a trained model and use it: export, ensemble, predict, demo."""

import shlex
from pathlib import Path
from typing import Any

from busfast.cli import parse
from busfast.cli.flags import MODEL, model_flags, with_settings
from busfast.cli.results import find_single
from busfast.errors import UserError, check_range, choose
from busfast.imports import heavy_imports
from busfast.pipelines.config import Config
from busfast.pipelines.settings import convert
from busfast.text import NEW_IMAGES, counted, file_size, plain_text

MOST_JOBS = 1024


@with_settings(("device", "threads"), device="cpu")
def export(*, run: str, format: str = "bundle", target: float = 0.9, positive: str = None,
           **settings: Any) -> str | None:
    """Exports a run's best weights, and checks that each format predicts the same as in training.

    Args:
        run: name of a run, such as phantom/stratified.
        format: bundle (models/RUN/bundle: plain files, no pickle), onnx (into the bundle), learner
            (models/RUN/learner.pkl for fastai's load_learner, a pickle), separated by commas.
        target: predict decides with the threshold for this sensitivity, if the run was evaluated.
        positive: the class that the threshold is for. Default: see evaluate.
        settings: how to run the model for the outlier score.
    """
    found = find_single(run)
    flags = model_flags(**settings)
    from busfast.inference.find_model import FORMATS

    formats = [choose("format", word.strip(), FORMATS) for word in format.split(",")]
    if positive is not None:
        choose("class", positive, found.read_config()[0].classes)
    from busfast.results.evaluation import check_target

    target = check_target(target)
    with heavy_imports():
        from busfast.results.export import export_run

    try:
        written = export_run(found, formats, target=target, positive=positive, **flags)
    except OSError as error:
        raise UserError(f"Cannot export into {found.models}: {error.strerror or error}. What was there before is "
                        "unchanged. Free some space or make it writable, then run again.") from error
    for path in written:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            print(f"wrote {file} ({file_size(file.stat().st_size)})")
        if path.suffix == ".pkl":
            print("  load it with fastai: load_learner(path). Like any pickle, only from someone you trust.")
    if (bundle := found.models / "bundle") not in written:
        return None
    return predict_with(bundle)


def predict_with(bundle: Path) -> str:
    """Returns the command that predicts new images with a bundle, and what these are."""
    return (f"python -m busfast predict {shlex.join([NEW_IMAGES, f'--model={bundle}'])}\n"
            f"  {NEW_IMAGES}: in its place, a folder, files or a list (CSV) of images that the model has not seen")


def ensemble(*, runs: str) -> str | None:
    """Combines runs into one, whose model averages their probabilities; every verb takes it.

    Runs of the same split (seeds) are scored by evaluate on their test part. Runs of different splits (folds, left-out
    centers) cannot be scored, as every image trained some of them.

    Args:
        runs: trained runs, separated by commas, such as phantom/stratified-seed42,phantom/stratified-seed43, or a group
            that compare lists, such as phantom/stratified-seeds.
    """
    from busfast.results.run_groups import find_members

    members = find_members(runs)  # what is misspelt is refused before torch is imported
    with heavy_imports():
        from busfast.results.ensemble import make_ensemble

    made = make_ensemble(members)
    record = made.read_config()[1]
    if record["unscored"]:
        print(f"it cannot be scored here: {record['unscored']}. On another labelled set it can: python -m busfast "
              f"evaluate {shlex.quote(f'--run={made.name}')} --data=SET")
    return parse.command("export" if record["unscored"] else "evaluate", {"run": made.name}, export)


@with_settings(MODEL, device="as in training, or auto for --model", threads="as in training, or 0 for --model")
def predict(*inputs: str, run: str = None, model: str = None, out: str = "predictions.csv", overwrite: bool = False,
            resume: bool = False, engine: str = "torch", trust: bool = False, target: float = None, jobs: int = 1,
            **settings: Any) -> str | None:
    """Predicts images with an exported model or a run's best weights; writes a CSV file with a row for each input.

    Columns: image, status (ok or unreadable), predicted, p_CLASS for each class (calibrated if the run was evaluated),
    decision (by the operating point's threshold), outlier (above 1: unlike the training images), reason.

    Args:
        inputs: images, folders (with their subfolders, without masks), data folders (the images of their table.csv),
            CSV files with a column image, patterns such as scans/*.png, or - for names from standard input.
        run: name of a run, such as phantom/stratified.
        model: an exported model instead, such as models/phantom/stratified/bundle.
        out: the CSV file to write.
        overwrite: replace the file if it exists.
        resume: continue an interrupted prediction.
        engine: torch or onnx, for a bundle.
        trust: load a pickle (learner.pkl), which runs whatever code is in it.
        target: decide with the bundle's threshold for this sensitivity. Default: its first.
        jobs: number of batches to predict in parallel, each on its share of the cores.
        settings: how to run the model.

    Raises:
        UserError: wrong input, or none of the inputs could be read (the rows with the reasons are written).
    """
    if (run is None) == (model is None):
        raise UserError("predict needs --run=RUN (a run) or --model=FOLDER (an exported model), not both.")
    if run is not None and (engine != "torch" or trust):
        raise UserError("--engine and --trust do not apply to --run. Export the run and use --model=FOLDER.")
    flags = model_flags(**settings)
    out, jobs = Path(out), convert("jobs", jobs, int)
    check_range("jobs", jobs, 1, MOST_JOBS)
    number = None if target is None else convert("target", target, float)
    found = find_single(run) if run is not None else None
    from busfast.inference.find_model import check_bundle_target, find_model
    from busfast.inference.inputs import list_inputs
    from busfast.inference.resumable_csv import check_output, check_same_inputs

    if model is not None:
        check_bundle_target(find_model(model, engine, trust), number)
    elif number is not None:
        from busfast.results.evaluation import check_target

        check_target(number)
    names, paths = list_inputs(*inputs)
    if check_output(out, overwrite, resume):
        check_same_inputs(out, names)
        print(f"{out} has a row of each of the {len(names)} inputs; nothing to do")
        return None
    with heavy_imports():
        from busfast.inference.predictor import load_predictor, write_predictions
        from busfast.inference.summary import summarize_predictions

    if found is not None:
        from busfast.results.facts import run_predictor

        predictor = run_predictor(found, target=number, **flags)
    else:
        predictor = load_predictor(model, engine=engine, trust=trust, target=number,
                                   device=flags.get("device", "auto"), threads=flags.get("threads", 0))
        if predictor.temperature is None:
            print(f"{model}: its probabilities are not calibrated"
                  + ("" if predictor.operating_points else ", and it has no threshold to decide with"))
    if predictor.phantom:
        print("the model was trained on a PHANTOM (synthetic images): it says nothing about images of patients")
    if predictor.lowest_auc <= 0.5:
        print("the model is not shown to be better than chance: the interval of its macro AUC on the test part begins "
              f"at {predictor.lowest_auc:.3f}, and chance is 0.5")
    old, bad = write_predictions(predictor, names, paths, out, resume=resume, bs=flags.get("bs", Config.bs),
                                 threads=flags.get("threads", 0), jobs=jobs)
    for line in summarize_predictions(out, predictor):
        print(plain_text(line))
    print(f"wrote {out}: {counted(len(names), 'row')}" + (f", {old} of them kept" if old else "")
          + (f", {bad} unreadable (see column reason)" if bad else ""))
    if bad == len(names):
        raise UserError(f"None of the {bad} inputs could be read; the reasons are in {out}."
                        + (" Paths in a table are relative to its folder."
                           if any(Path(name).suffix == ".csv" for name in inputs) else ""))
    shown = model is not None and engine == "torch" and not trust and not predictor.label_delim
    return parse.command("demo", {"model": model}, demo) if shown else None


@with_settings(("device",))
def demo(*, model: str, host: str = "127.0.0.1", port: int = 7860, max_mb: float = 50, target: float = None,
         **settings: Any) -> None:
    """Serves a page on this machine: drop an image, see what an exported model predicts and where it looks.

    Images are not stored, and no other machine is contacted. Needs Gradio: pip install 'gradio>=6.31'.

    Args:
        model: an exported model, such as models/phantom/stratified/bundle.
        host: address to listen on. Any but 127.0.0.1 opens the page to the network, without a password.
        port: port to listen on; 0: any free one.
        max_mb: largest image file, megabytes.
        target: decide with the bundle's threshold for this sensitivity. Default: its first.
        settings: how to run the model.
    """
    number = None if target is None else convert("target", target, float)
    port, max_mb = convert("port", port, int), convert("max_mb", max_mb, float)
    check_range("port", port, 0, 65535)
    check_range("max_mb", max_mb, 0.001, 1000)
    flags = model_flags(**settings)
    from busfast.demo import serve

    serve(model, host=host, port=port, most=int(max_mb * 1e6), target=number, **flags)
