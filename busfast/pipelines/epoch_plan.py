"""What is drawn at the beginning of an epoch, all at once: the order of the images, and their augmentation.

It is sent to the device then, so that no batch has to wait for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from fastai.data.load import chunked

from busfast.pipelines.augment import affine_matrices
from busfast.pipelines.image import Augmentation, ImagePipeline, sample_augmentation
from busfast.pipelines.transfer import send
from busfast.processes import rank_slice


@dataclass(frozen=True)
class EpochPlan:
    """The batches of an epoch.

    Attributes:
        batches: rows of the dataset in each batch, of all ranks.
        own: the slice of each batch that this rank makes.
        places: where in `rows` and `matrices` the images of that slice are.
        rows: this rank's images, in order: int64, (n,), on the device.
        matrices: their augmentation, as `affine_matrices` returns it, on the device; None: there is none.
    """

    batches: list[tuple[int, ...]]
    own: list[slice]
    places: list[slice]
    rows: torch.Tensor
    matrices: torch.Tensor | None

    def mine(self, number: int) -> tuple[int, ...]:
        """Returns the rows of a batch that this rank makes."""
        return self.batches[number][self.own[number]]


def plan_epoch(samples: Iterable[int], bs: int, drop_last: bool, image: ImagePipeline, rng: np.random.Generator | None,
               device: torch.device | None, rank: int = 0, world_size: int = 1) -> EpochPlan:
    """Plans an epoch.

    Args:
        samples: rows of the dataset, in order.
        bs: images per batch, of all ranks; drop_last: leave out a shorter last batch.
        image: the image pipeline, whose augmentation is drawn.
        rng: draws the augmentation, the same in each rank; None: no augmentation.
        device: of the model.
        rank, world_size: this process, and how many share each batch.
    """
    batches = [tuple(batch) for batch in chunked(samples, bs, drop_last)]
    own = [rank_slice(len(batch), rank, world_size) for batch in batches]
    mine = [batch[part] for batch, part in zip(batches, own, strict=True)]
    drawn = [sample_augmentation(image, len(batch), rng)[part] for batch, part in zip(batches, own, strict=True)] \
        if rng is not None else []
    places = [slice(*ends) for ends in pairwise(accumulate(map(len, mine), initial=0))]
    matrices = affine_matrices(Augmentation.join(drawn), *image.sides) if drawn else None
    rows = torch.tensor([row for part in mine for row in part], dtype=torch.int64)
    return EpochPlan(batches, own, places, send(rows, device), None if matrices is None else send(matrices, device))
