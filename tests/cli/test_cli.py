"""What is misspelt or out of range is refused before anything runs, with the nearest right word.

Covers busfast/cli/__init__.py, busfast/cli/train.py, busfast/cli/results.py, busfast/cli/models.py, busfast/__init__.py
and busfast/__main__.py; what the verbs do is tested with what they call.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ARCH

from busfast import processes
from busfast.cli import VERBS, main


@pytest.mark.parametrize(("line", "message"), [
    ("trian", "Unknown verb 'trian'. Did you mean 'train'?"),
    ("train --epohcs=5", "Unknown flag of train '--epohcs'. Did you mean '--epochs'?"),
    ("train -e=5", "Unknown flag of train '-e'"),
    ("train --imgsz=224", "Unknown flag of train '--imgsz'. Did you mean '--size'?"),
    ("train --learning_rate=0.1", "Did you mean '--lr'?"), ("train --test-size=0.2", "Did you mean '--test_share'?"),
    ("split --random_state=1", "Did you mean '--seed'?"),
    ("train empty", "Did you mean '--data=empty'?"),
    ("train --batch=8", "Unknown flag of train '--batch'. Did you mean '--bs'?"),
    ("lr_find --model=resnet18", "Unknown flag of lr_find '--model'. Did you mean '--arch'?"),
    ("train --wd=0.1", "Unknown flag of train '--wd'. It is a key without a flag: --set=wd=VALUE."),
    ("train --weight-decay=0.1", "--set=wd=VALUE"), ("train --drop=0.1", "--set=dropout=VALUE"),
    ("train --set=wd", "--set=wd is not KEY=VALUE"), ("train --set=dropuot=0.1", "Did you mean 'dropout'?"),
    ("train --lr=1e-3 --set=lr=1e-4", "lr is given twice: 1e-3 and, in --set, 1e-4"),
    ("train --set=wd=-1", "wd=-1.0 is out of range"), ("train --opt=lionn", "Did you mean 'lion'?"),
    ("train --learner=my.py", "There is no file 'my.py' (--learner)"),
    ("train --split=stratfied", "Unknown split 'stratfied'. Did you mean 'stratified'?"),
    ("train --loader=dalli", "Unknown loader 'dalli'. Did you mean 'dali'?"),
    ("train --device=gpu", "Unknown device 'gpu'"),
    ("train --arch=efficientnet_b00", "Unknown model 'efficientnet_b00'. Did you mean 'efficientnet_b0'?"),
    ("train --monitor=val_los", "Unknown monitor 'val_los'. Did you mean 'val_loss'?"),
    ("train --freeze=90 --arch=efficientnet_b0", "freeze=90 leaves nothing of efficientnet_b0 to train"),
    ("train --pipeline=fantom", "Unknown pipeline 'fantom'. Did you mean 'phantom'?"),
    ("train --pipeline=no/such.yaml", "There is no pipeline file no/such.yaml"),
    ("train --epochs=abc", "epochs=abc is not a whole number"),
    ("train --epochs=2.5", "epochs=2.5 is not a whole number"),
    ("train --epochs=0", "epochs=0 is out of range"),
    ("train --lr=-1", "lr=-1.0 is out of range"),
    ("train --lr=nan", "lr=nan is not a number"),
    ("train --lr=1e-9", "give a number from 0 to 1e-09 (lr). lr_min=1e-06 is the default."),
    ("train --preset=best --epochs=1 --freeze=2", "freeze_after=1 comes from --preset=best."),
    ("sweep --preset=fast --set=warmup=4", "warmup=4 must be less than epochs=4"),
    ("train --epochs", "--epochs needs a value"),
    ("train --epochs --lr=1", "--epochs needs a value"),
    ("train --epochs=1 --epochs=2", "--epochs is given twice"),
    ("train stratified", "Unexpected argument 'stratified'"),
    ("train --data=no_such_folder", "There is no data folder 'no_such_folder'"),
    ("train --data=empty", "The folder 'empty' has no table.csv"),
    ("train --weights=no.pth", "There is no weights file 'no.pth'"),
    ("train --holdout=beta", "--holdout=beta does not apply to --split=stratified"),
    ("train --split=center_holdout --holdout=betta", "Unknown split 'betta'"),
    ("train --pipeline=no_data.yaml", "The pipeline 'no_data' names no data folder"),
    ("train --split=all --epochs=0", "epochs=0 is out of range"),
    ("train --seeds=1", "--seeds=1 is out of range: give how many, 2 to 100"),
    ("train --seeds=101", "--seeds=101 is out of range"),
    ("train --seeds=42,42", "give how many, 2 to 100, or the seeds themselves, each once, such as --seeds=42,50"),
    ("train --seeds=few", "seeds=few is not a whole number"),
    ("train --seeds=1,-1", "seed=-1 is out of range"),
    ("train --seeds=42,50 --seed=7", "Leave out --seed"),
    ("train --split-seed=-2", "split_seed=-2 is out of range"),
    ("train --jobs=0", "jobs=0 is out of range: give a number from 1 to 64"),
    ("train --jobs=two", "jobs=two is not a whole number"),
    ("ensemble", "ensemble needs --runs=VALUE"),
    ("ensemble --runs=phantom/a,phantom/b", "There are no runs here yet"),
    ("ensemble --runs=,", "does not name 2 to 100 different runs, separated by commas, or a group of them ("),
    ("lr_find --split=all", "Unknown split 'all'"),
    ("compare --run=x", "Unknown flag of compare '--run'"),
    ("compare", "There is no trained run below results/."),
    ("export", "export needs --run=VALUE"),
    ("export --run=phantom/stratified", "There are no runs here yet"),
    ("predict", "predict needs an image, folder or table"),
    ("predict x", "predict needs --run=RUN (a run) or --model=FOLDER"),
    ("predict --inputs=x --run=z", "Unknown flag of predict '--inputs'"),
    ("predict x y --run=z", "There is no run 'z'"),
    ("demo", "demo needs --model=VALUE"),
    ("demo --model=learner.pkl", "There is no model 'learner.pkl'"),
    ("demo --model=x --port=70000", "port=70000 is out of range: give a number from 0 to 65535"),
    ("demo --model=x --max_mb=0", "max_mb=0.0 is out of range"),
    ("demo --model=x --device=gpu", "Unknown device 'gpu'"),
    ("predict x --run=z --overwrite=maybe", "Unknown value of --overwrite 'maybe'"),
])
def test_wrong_lines_are_refused_and_change_nothing(workdir, line, message, capsys):
    (workdir / "empty").mkdir()
    (workdir / "no_data.yaml").write_text("epochs: 1\n")
    message = message.replace("Unknown split 'betta'", "Unknown center 'betta'. Did you mean 'beta'?")
    before = sorted(workdir.rglob("*"))
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before


def copy_table(workdir, phantom_folder, change):
    """A small set in `mine`, its table changed by `change(lines)`; returns its folder."""
    folder = workdir / "mine"
    (folder / "images").mkdir(parents=True)
    for image in (phantom_folder / "images").iterdir():
        (folder / "images" / image.name).write_bytes(image.read_bytes())
    lines = (phantom_folder / "table.csv").read_text().splitlines()
    lines = [",".join(line.split(",")[:4]) for line in lines]  # image, label, center, patient
    (folder / "table.csv").write_text("\n".join(change(lines)) + "\n")
    return folder


def row(number, text):
    return lambda lines: [*lines[:number - 1], text, *lines[number:]]


@pytest.mark.parametrize(("change", "message"), [
    (row(5, "images/gone.png,benign,alpha,1"), "row 5, column image: there is no file 'images/gone.png'"),
    (row(5, "/etc/passwd,benign,alpha,1"), "row 5, column image: '/etc/passwd' is an absolute path"),
    (row(5, "../mine/images/x.png,benign,alpha,1"), "leads out of the data folder"),
    (lambda lines: [*lines[:4], ",".join([lines[4].split(",")[0], "begnin", "alpha", "1"]), *lines[5:]],
     "row 5, column label: 'begnin' is the label of 1 of 90 images. Did you mean 'benign'? Correct it; or, if it is a "
     "class, name all classes in the pipeline file (classes: [normal, benign, malignant, begnin])."),
    (row(5, ""), "row 5: the row is empty"),
    (row(1, "file,label,center,patient"), "row 1: the column 'image' is missing"),
    (lambda lines: lines[:1] + [line for line in lines if ",benign," in line],
     "All images are of the class 'benign'"),
])
def test_a_wrong_table_is_refused_and_changes_nothing(workdir, phantom_folder, change, message, capsys):
    copy_table(workdir, phantom_folder, change)
    before = sorted(workdir.rglob("*"))
    assert main(["train", "--data=mine", f"--arch={ARCH}", "--device=cpu"]) == 2
    assert message in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize("table_exists", [True, False])
def test_what_needs_no_torch_is_refused_before_torch_is_imported(workdir, phantom_folder, table_exists):
    lines = ["train --seeds=1", "train --tracker=mflow", "train --learner=no.py", "train --jobs=0",
             "lr_find --learner=no.py", "evaluate --run=no", "export --run=no", "explain --run=no",
             "train --arch=efficientnet_b00", "train --opt=lionn", "lr_find --arch=timm/resnet51",
             "train --weights=nofile", "lr_find --weights=nofile", "sweep --params=xx", "sweep --jobs=0",
             "sweep --params=arch=resnet18/resnet19", "demo --model=no", "predict . --model=no", "predict no --run=no",
             "evaluate --model=no --data=no", "ensemble --runs=no,neither", "bench step --arch=efficientnet_bo",
             "bench loaders --device=gpu", "prepare --source=folder --path=no"]
    if table_exists:
        lines = ["train --split=center_holdout --holdout=nowhere", "train --split=kfold --fold=9",
                 "lr_find --split=leave_one_center_out --fold=nowhere", "train --fold=1"]
        lines = [f"{line} --data={phantom_folder}" for line in lines]
    code = f"""import sys
from busfast.cli import main
print(*(main(line.split()) for line in {lines}), 'torch' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == " ".join(["2"] * len(lines) + ["False"]), done.stderr


def test_a_truncated_image_is_refused_by_name_and_changes_nothing(workdir, phantom_folder, capsys):
    folder = copy_table(workdir, phantom_folder, lambda lines: lines)
    victim = sorted((folder / "images").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-500])
    before = sorted(workdir.rglob("*"))
    assert main(["train", "--data=mine", f"--arch={ARCH}", "--device=cpu"]) == 2
    assert f"images/{victim.name}: OSError: " in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before


def test_a_folder_without_a_pipeline_file_is_trained_with_the_defaults_under_its_own_name(workdir, phantom_folder):
    copy_table(workdir, phantom_folder, lambda lines: lines)
    words = ["--epochs=1", "--size=32", f"--arch={ARCH}", "--weights=none", "--device=cpu", "--loader=torchvision"]
    assert main(["train", "--data=mine", *words]) == 0
    assert (workdir / "results" / "mine" / "stratified" / "training_log.csv").is_file()
    assert "PHANTOM" not in (workdir / "results" / "mine" / "stratified" / "config.yaml").read_text()


def test_two_folders_of_one_name_do_not_share_a_pipeline_unless_the_user_names_it(workdir, phantom_folder, capsys):
    for place in ("x", "y"):
        shutil.copytree(phantom_folder, workdir / place / "images")
    run = workdir / "results" / "images" / "stratified"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: x/images\n")
    assert main(["train", "--data=y/images"]) == 2
    said = capsys.readouterr().err
    assert "images/stratified is of other images, x/images, in a folder of the same name" in said
    assert "write `data: y/images` into pipelines/y_images.yaml, then --pipeline=y_images in the place" in said
    assert main(["train", "--data=x/images/table.csv", "--split=center_holdout", "--holdout=betta"]) == 2
    assert "Did you mean 'beta'?" in capsys.readouterr().err
    (workdir / "pipelines" / "images.yaml").write_text("data: y/images\n")
    assert main(["train", "--pipeline=images", "--split=center_holdout", "--holdout=betta"]) == 2
    said = capsys.readouterr()
    assert "pipeline images: has runs of other images, too: x/images (images/stratified)" in said.out
    assert "Did you mean 'beta'?" in said.err
    shutil.move(workdir / "x" / "images", workdir / "moved")
    assert main(["train", "--data=y/images", "--split=center_holdout", "--holdout=betta"]) == 2
    assert "Did you mean 'beta'?" in capsys.readouterr().err


def test_less_than_a_core_is_said_at_once(workdir, monkeypatch, capsys):
    monkeypatch.setattr(processes, "cpu_quota", lambda: 0.25)
    assert main(["train", "--data=gone"]) == 2
    assert capsys.readouterr().out.startswith(
        "cores: a CPU quota (of a container, Slurm or systemd) grants this process 0.25 of a core. busfast works with "
        "that, with one thread, but takes at least 4 times as long as on a whole core.\n")
    monkeypatch.setattr(processes, "cpu_quota", lambda: 1)
    assert main(["train", "--data=gone"]) == 2 and "cores:" not in capsys.readouterr().out


def test_help_of_every_verb_names_every_flag_and_runs_nothing(workdir, capsys):
    import inspect
    before = sorted(workdir.rglob("*"))
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(verb in page for verb in VERBS)
    for verb, function in VERBS.items():
        assert main([verb, "--help"]) == 0
        page = capsys.readouterr().out
        for name in inspect.signature(function).parameters:
            assert f"--{name}" in page or name.upper() in page
    assert sorted(workdir.rglob("*")) == before


def test_flag_and_value_may_be_two_words(workdir, capsys):
    assert main(["train", "--epochs", "abc"]) == 2
    assert "epochs=abc" in capsys.readouterr().err


def test_the_module_is_the_command(workdir):
    done = subprocess.run([sys.executable, "-m", "busfast", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("busfast: Unknown verb 'trian'") and not done.stdout


def test_a_file_or_pipe_has_each_line_as_soon_as_it_is_printed(tmp_path, monkeypatch):
    log, seen = tmp_path / "log.txt", []

    def verb():
        print("an epoch")
        seen.append(log.read_text())

    monkeypatch.setitem(VERBS, "compare", verb)
    with open(log, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:  # with a buffer
        patch.setattr(sys, "stdout", stream)
        assert main(["compare"]) == 0
    assert seen == ["an epoch\n"]


def test_a_terminated_command_removes_its_temporary_files(tmp_path, monkeypatch):
    def verb():
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    monkeypatch.setitem(VERBS, "compare", verb)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main(["compare"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143 and not list(tmp_path.iterdir())


def test_a_pipeline_in_the_place_of_a_run_lists_its_runs_and_a_run_without_a_flag_gets_it(workdir, capsys):
    for run in ("phantom/stratified", "phantom/kfold-1of5", "other/stratified"):
        folder = workdir / "results" / run
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("size: 32\n")
    for name in ("phantom", "results/phantom/"):
        assert main(["report", f"--run={name}"]) == 2
        assert f"'{name}' is a pipeline. Name one of its runs: phantom/kfold-1of5, phantom/stratified.\n" in (
            capsys.readouterr().err)
    assert main(["export", "other/stratified"]) == 2
    assert "Did you mean '--run=other/stratified'?" in capsys.readouterr().err
