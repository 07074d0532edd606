"""The first stages of a model, left as they are.

What they learned elsewhere serves most images, and a step without their backward pass, where the feature maps are
largest, is much faster.
"""

from torch import nn

from busfast.errors import UserError


def freeze_stages(model: nn.Module, count: int, arch: str) -> None:
    """Stops the training of a model's first stages; their batch normalisation still follows the images.

    Args:
        model: a timm model.
        count: how many, as timm counts them: the stem is the first, the classifier the last.
        arch: names the model in the error.

    Raises:
        UserError: the model has no such stages.
    """
    from timm.models import group_parameters

    stages = group_parameters(model, model.group_matcher(coarse=True)) if hasattr(model, "group_matcher") else {}
    if count >= len(stages):
        raise UserError(f"freeze={count} leaves nothing of {arch} to train: it has {len(stages)} stages, the "
                        "classifier among them. Give a smaller number, or 0.")
    for key in sorted(stages)[:count]:
        for name in stages[key]:
            model.get_parameter(name).requires_grad_(False)
