"""The verbs that hand a trained model over and use it: ensemble, export, predict, demo."""

from pathlib import Path

from busfast.cli.flags import model_flags
from busfast.errors import UserError


def export(*, run: str, format: str = "bundle", target: float = 0.9, positive: str = None, device: str = "cpu",
           threads: int = None) -> None:
    """Exports a run's best weights, and checks each form against what training said of the same images.

    Args:
        run: name of a run, such as phantom/stratified.
        format: bundle (models/RUN/bundle: plain files, no pickle), onnx (into the bundle), learner
            (models/RUN/learner.pkl for fastai's load_learner, a pickle), separated by commas.
        target: sensitivity whose threshold predict decides by, if the run was evaluated.
        positive: the class that it is for; default: malignant, or else the last class.
        device: cpu, auto, cuda or mps; where images are looked at for the outlier score.
        threads: decoding threads; 0: one a core.
    """
    from busfast.training.runs import find_run

    found = find_run(run)
    flags = model_flags(device=device, threads=threads)
    from busfast.results.evaluation import check_request
    from busfast.results.export import export_run

    target, positive = check_request(found.read_config()[0].classes, target, positive)
    formats = [word.strip() for word in format.split(",") if word.strip()]
    try:
        written = export_run(found, formats, target=target, positive=positive, **flags)
    except OSError as error:
        raise UserError(f"Cannot export into {found.models}: {error.strerror or error}. What stood there before is "
                        "untouched. Make room or make it writable, then run again.") from error
    for path in written:
        print(f"wrote {path}")
        if path.suffix == ".pkl":
            print("  load it with fastai: load_learner(path). Like any pickle, only from someone you trust.")
    print("Research only, not a medical device.")


def ensemble(*, runs: str) -> None:
    """Makes one run of several: its model gives the mean of their probabilities, and every verb takes it.

    Where all have the same split (seeds), `evaluate` scores it on their test part. Where they have not (folds, left-out
    centers), each image trained some of them, and nothing is left to score the mean on.

    Args:
        runs: trained runs, separated by commas, such as phantom/stratified-seed42,phantom/stratified-seed43, or a group
            as compare names it, such as phantom/stratified-seeds.
    """
    from busfast.results.ensemble import make_ensemble

    made = make_ensemble(runs)
    record = made.read_config()[1]
    print(f"{made.name}: the mean of {len(record['members'])} runs: {', '.join(record['members'])}")
    print(f"wrote {made.results}/ and {made.models}/")
    print(f"it cannot be scored: {record['unscored']}" if record["unscored"] else
          f"Next: python -m busfast evaluate --run={made.name}")
    print("Research only, not a medical device.")


def predict(inputs: str, *, run: str = None, model: str = None, out: str = "predictions.csv", overwrite: bool = False,
            resume: bool = False, engine: str = "torch", trust: bool = False, target: float = None, bs: int = 32,
            device: str = None, threads: int = None, jobs: int = 1) -> None:
    """Predicts images with an exported model or a run's best weights; one row an input, in their order.

    Columns: image, status (ok or unreadable), predicted, p_CLASS of each class (calibrated if the run was evaluated),
    decision (the operating point's), outlier (above 1: unlike the training images), reason.

    Args:
        inputs: an image, a folder (searched with its subfolders), a data folder (the images of its table.csv), a CSV
            file with a column image, a pattern in quotes such as 'scans/*.png', or - for names from standard input.
        run: name of a run, such as phantom/stratified.
        model: or else an exported model, such as models/phantom/stratified/bundle.
        out: the CSV file to write.
        overwrite: replace it if it is there.
        resume: go on with an interrupted prediction.
        engine: torch or onnx, for a bundle.
        trust: load a pickle (learner.pkl), which runs whatever code is in it.
        target: decide by the bundle's operating point of this sensitivity; default: its first.
        bs: images a batch.
        device: auto, cuda, mps or cpu; default: as in training, or auto.
        threads: decoding threads; 0: one a core.
        jobs: batches that are predicted side by side, each on its share of the cores.

    Raises:
        UserError: wrong input, or not one of the inputs could be read (the rows with the reasons are written).
    """
    from busfast.inference.resumable_csv import check_place, check_same, is_done
    from busfast.pipelines.settings import convert

    if (run is None) == (model is None):
        raise UserError("predict needs --run=RUN (a run) or --model=FOLDER (an exported model), one of the two.")
    if run is not None and (engine != "torch" or trust):
        raise UserError("--engine and --trust have no meaning for --run. Export the run and use --model=FOLDER.")
    flags = model_flags(bs=bs, device=device, threads=threads)
    out, jobs = Path(out), max(1, convert("jobs", jobs, int))
    number = None if target is None else convert("target", target, float)
    if overwrite or not (resume and is_done(out)):
        check_place(out, overwrite, resume)
    found = None
    if run is not None:
        from busfast.training.runs import find_run

        found = find_run(run)
    from busfast.inference.inputs import list_inputs
    from busfast.inference.predictor import load_predictor, write_rows

    names, paths = list_inputs(inputs)
    if resume and is_done(out):
        check_same(out, names)
        print(f"{out} has a row of each of the {len(names)} inputs; nothing is left to do")
        return
    if found is not None:
        from busfast.results.export import run_predictor

        predictor = run_predictor(found, target=number, **flags)
    else:
        predictor = load_predictor(model, engine=engine, trust=trust, target=number,
                                   device=flags.get("device", "auto"), threads=flags.get("threads", 0))
        if predictor.temperature is None:
            print(f"{model}: its probabilities are not calibrated, and no threshold decides")
    old, bad = write_rows(predictor, names, paths, out, resume=resume, bs=flags["bs"],
                          threads=flags.get("threads", 0), jobs=jobs)
    print(f"wrote {out}: {len(names)} rows" + (f", {old} of them before" if old else "")
          + (f", {bad} unreadable (see column reason)" if bad else ""))
    print("Research only, not a medical device.")
    if bad == len(names):
        raise UserError(f"None of the {bad} inputs could be read; the reasons are in {out}."
                        + (" Paths in a table are relative to its folder." if Path(inputs).suffix == ".csv" else ""))


def demo(*, model: str, host: str = "127.0.0.1", port: int = 7860, max_mb: float = 50, target: float = None,
         device: str = "auto") -> None:
    """Serves a page on this machine: drop an image, see what a bundle's model says of it, and where it looked.

    Nothing is kept, nothing is asked of any other machine. Needs Gradio: pip install 'gradio>=6.31'.

    Args:
        model: an exported model, such as models/phantom/stratified/bundle.
        host: the address to listen at. Any other than 127.0.0.1 opens the page to the network, without a password.
        port: of this address; 0: any that is free.
        max_mb: megabytes that an image may have.
        target: decide by the bundle's operating point of this sensitivity; default: its first.
        device: auto, cuda, mps or cpu.
    """
    from busfast.pipelines.settings import convert

    number = None if target is None else convert("target", target, float)
    port, most = convert("port", port, int), convert("max_mb", max_mb, float)
    if not 0 <= port <= 65535:
        raise UserError(f"port={port} is out of range: 0 to 65535.")
    if not 0 < most <= 1000:
        raise UserError(f"max_mb={most:g} is out of range: above 0, at most 1000.")
    flags = model_flags(device=device)
    from busfast.demo import serve

    serve(model, host=host, port=port, most=int(most * 1e6), target=number, **flags)
