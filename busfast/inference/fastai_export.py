"""A trained model -> a fastai learner in one file, which loads without busfast."""

import contextlib
import tempfile
from pathlib import Path

import cloudpickle
from fastai.learner import Learner

from busfast.errors import UserError
from busfast.files import move_file
from busfast.inference import load_bundle

# The file includes the class of an ensemble.
cloudpickle.register_pickle_by_value(load_bundle)


def export_learner(learn: Learner, path: Path) -> Path:
    """Exports with fastai's `learn.export`, atomically; returns `path`.

    `load_learner(path)` needs similar versions of fastai and timm and the same Python minor version (the functions that
    read an image are stored as bytecode), but neither busfast nor DALI. Loading runs the code in the file: recipients
    must trust the sender.

    Raises:
        UserError: the file cannot be written.
    """
    old_path = learn.path
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            learn.path = Path(folder)
            with contextlib.redirect_stdout(None):
                learn.export("learner.pkl")
            move_file(Path(folder) / "learner.pkl", path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Cannot write {path}: {error}. The previous file is unchanged.") from error
    finally:
        learn.path = old_path
    return path
