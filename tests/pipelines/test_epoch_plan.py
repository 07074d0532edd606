"""An epoch is drawn at its beginning: each image once, shared among the ranks, the augmentation the same in each."""

import numpy as np
import pytest
import torch

from busfast.pipelines.augment import affine_matrices
from busfast.pipelines.epoch_plan import plan_epoch
from busfast.pipelines.image import ImagePipeline, sample_augmentation

IMAGE = ImagePipeline(size=64, vflip=0.5)
CPU = torch.device("cpu")


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("augmented", [False, True])
def test_the_ranks_share_each_batch_and_its_augmentation(ranks, augmented):
    order = np.random.default_rng(1).permutation(25).tolist()
    plans = [plan_epoch(iter(order), 8, False, IMAGE, np.random.default_rng(2) if augmented else None, CPU, rank, ranks)
             for rank in range(ranks)]
    rng = np.random.default_rng(2)
    for number, batch in enumerate([order[start:start + 8] for start in range(0, 25, 8)]):
        assert all(list(plan.batches[number]) == batch for plan in plans)
        assert [row for plan in plans for row in plan.mine(number)] == batch
        assert torch.cat([plan.rows[plan.places[number]] for plan in plans]).tolist() == batch
        if augmented:
            expected = affine_matrices(sample_augmentation(IMAGE, len(batch), rng), 64, 64)
            assert torch.equal(torch.cat([plan.matrices[plan.places[number]] for plan in plans]), expected)
        else:
            assert all(plan.matrices is None for plan in plans)


def test_a_shorter_last_batch_can_be_left_out_and_no_images_are_no_batches():
    assert [len(batch) for batch in plan_epoch(range(10), 4, True, IMAGE, None, CPU).batches] == [4, 4]
    empty = plan_epoch([], 4, False, IMAGE, np.random.default_rng(0), CPU)
    assert empty.batches == empty.places == [] and len(empty.rows) == 0
