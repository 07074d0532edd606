"""The pictures of the first batches show what the model was given, and change nothing."""

import random

import numpy as np
import pytest
import torch
from conftest import ARCH
from fastai.callback.core import Callback

from busfast.models import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training import curves
from busfast.training.batch_pictures import IMAGES, BatchPictures, name_labels


class Given(Callback):
    """Keeps what the model is given."""

    def before_fit(self):
        self.batches = {True: [], False: []}

    def after_pred(self):
        self.batches[self.training].append((self.x.clone(), self.y.clone()))


def fit(parts, folder, pictures: bool):
    """Trains an epoch; returns the learner, what the model was given, and what random numbers come next."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    dls = make_dls(parts, ImagePipeline(size=32), bs=8, val_bs=8, loader="torchvision", device="cpu")
    learn, given = make_learner(dls, ARCH, weights="none", dropout=0), Given()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[given, *([BatchPictures(folder, list(dls.vocab), "")] if pictures else [])])
    after = random.random(), np.random.random(), torch.rand(()).item(), [dl.rng.random() for dl in dls.loaders]
    return learn, given.batches, after


@pytest.fixture
def drawn(monkeypatch):
    calls = {}
    monkeypatch.setattr(curves, "draw_batch", lambda path, pixels, labels, title, caption: calls.update(
        {path.name: (np.stack(list(pixels)), labels)}) or path.write_bytes(b""))
    return calls


def test_pictures_show_the_pixels_and_labels_that_the_model_was_given(parts, tmp_path, drawn):
    learn, batches, _ = fit(parts, tmp_path, True)
    (x, y), image, vocab = batches[True][0], learn.dls.train.image, learn.dls.vocab
    pixels, labels = drawn["train_batch.png"]
    back = (x * torch.tensor(image.std)[:, None, None] + torch.tensor(image.mean)[:, None, None]) * 255
    assert np.abs(pixels - back.permute(0, 2, 3, 1).numpy()).max() <= 1.01 and pixels.std() > 10
    assert labels == [vocab[one] for one in y]
    pixels, labels = drawn["val_batch.png"]
    table = learn.dls.valid_ds.items
    places = np.unique(np.linspace(0, len(table) - 1, IMAGES).round().astype(int))
    assert labels == table["label"].iloc[places].tolist() and set(labels) == set(vocab)
    x = torch.cat([x for x, _ in batches[False]])[places]
    back = (x * torch.tensor(image.std)[:, None, None] + torch.tensor(image.mean)[:, None, None]) * 255
    assert np.abs(pixels - back.permute(0, 2, 3, 1).numpy()).max() <= 1.01


def test_pictures_change_neither_weights_nor_random_numbers_and_stay_when_they_are_there(parts, tmp_path, drawn):
    with_pictures, _, after = fit(parts, tmp_path, True)
    without, _, expected = fit(parts, tmp_path, False)
    assert after == expected
    state = without.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in with_pictures.model.state_dict().items())
    drawn.clear()
    fit(parts, tmp_path, True)
    assert drawn == {}


def test_images_of_several_labels_name_each():
    assert name_labels(torch.tensor([[1.0, 0, 1], [0, 0, 0]]), ["a", "b", "c"]) == ["a, c", ""]
    assert name_labels(torch.tensor([2, 0]), ["a", "b", "c"]) == ["c", "a"]
