"""The average of the weights is validated and kept; the trained weights go on."""

import pytest
import torch
from conftest import ARCH
from fastai.callback.core import Callback

from busfast.models import make_learner
from busfast.models.averaging import AveragedWeights
from busfast.pipelines import ImagePipeline, make_dls


@pytest.fixture
def learn(parts):
    dls = make_dls(parts, ImagePipeline(size=32), bs=16, loader="torchvision", device="cpu")
    made = make_learner(dls, ARCH, weights="none", dropout=0)
    return made.remove_cbs([made.recorder, made.progress])


class Watch(Callback):
    """Averages by hand; keeps what is trained, validated and there at the end of each epoch."""

    def __init__(self, decay):
        self.decay, self.mean, self.steps, self.validated, self.ends = decay, None, 0, [], []

    def after_step(self):
        now = self.learn.model.conv_stem.weight.detach().clone()
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.mean = now if self.mean is None else decay * self.mean + (1 - decay) * now
        self.steps, self.trained = self.steps + 1, now

    def before_train(self):
        if self.steps:
            assert torch.equal(self.learn.model.conv_stem.weight, self.trained)

    def before_batch(self):
        if not self.training:
            assert not self.learn.model.training
            self.validated.append(self.learn.model.conv_stem.weight.detach().clone())

    def after_epoch(self):
        self.ends.append((self.learn.model.conv_stem.weight.detach().clone(), self.mean))


def test_the_average_is_validated_and_saved_and_the_trained_weights_go_on(learn):
    watch, model = Watch(0.9), learn.model
    learn.fit(3, lr=0.01, cbs=[AveragedWeights(0.9), watch])
    assert len(watch.ends) == 3 and watch.steps > 9  # decay reaches .9
    for end, mean in watch.ends:
        assert torch.allclose(end, mean, atol=1e-6)
    assert torch.equal(watch.validated[-1], watch.ends[-1][0])
    assert not torch.allclose(watch.mean, watch.trained, atol=1e-4)
    assert learn.model is model and torch.equal(model.conv_stem.weight, watch.ends[-1][0])


def test_batch_normalizations_counter_is_copied_not_averaged(learn):
    averaged = AveragedWeights(0.5)
    learn.fit(2, lr=0.01, cbs=averaged)
    counts = [value for name, value in learn.model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {averaged.average.n_averaged.item()}
