"""A trained model -> a fastai learner in one file, for whoever has fastai and timm but not busfast."""

import contextlib
import tempfile
from pathlib import Path

import cloudpickle
from fastai.learner import Learner

from busfast.errors import UserError
from busfast.files import move_file
from busfast.inference import load_bundle

# The class of an ensemble travels with its learner.
cloudpickle.register_pickle_by_value(load_bundle)


def export_learner(learn: Learner, path: Path) -> Path:
    """Exports with fastai's own `learn.export`, to a file that appears whole or not at all.

    `load_learner(path)` needs fastai and timm of about these versions and the same Python minor version (the
    functions that read an image travel as bytecode); neither busfast nor DALI. Loading it runs what is in it:
    whoever gets it must trust whoever sends it.

    Raises:
        UserError: it cannot be written.
    """
    before = learn.path
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            learn.path = Path(folder)
            with contextlib.redirect_stdout(None):
                learn.export("learner.pkl")
            move_file(Path(folder) / "learner.pkl", path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Cannot write {path}: {error}. What stood there before is untouched.") from error
    finally:
        learn.path = before
    return path
