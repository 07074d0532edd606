"""PPV and NPV where the positive class is more or less frequent than in the images that were scored."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from busfast.errors import UserError
from busfast.pipelines.settings import convert
from busfast.results.intervals import intervals
from busfast.results.scores import divide, rate_groups, rates

PREVALENCES = (0.01, 0.05, 0.2)  # for which predictive values are printed if none are asked for


def check_prevalences(given: Any) -> tuple[float, ...]:
    """Returns the prevalences that were asked for ("" or None: `PREVALENCES`), each once, sorted.

    Raises:
        UserError: one of them is not between 0 and 1, the ends left out.
    """
    try:
        items = given if isinstance(given, list | tuple) else "" if given is None else str(given)
        found = convert("prevalence", items, tuple[float, ...])
        if any(not 0 < value < 1 for value in found):
            raise UserError("")
    except UserError:
        raise UserError(f"prevalence={given} is no list of shares: give numbers between 0 and 1, separated by commas, "
                        "such as 0.01,0.05 (1% and 5% of the patients have the disease).") from None
    return tuple(sorted(set(found))) or PREVALENCES


def predictive_values(positive: np.ndarray, values: np.ndarray, threshold: float, groups: np.ndarray,
                      prevalences: tuple[float, ...] = PREVALENCES, with_intervals: bool = True) -> pd.DataFrame:
    """Computes predictive values from sensitivity and specificity, by Bayes' rule.

    logit(PPV) = logit(prevalence) + log(sensitivity / (1 - specificity)), and NPV likewise: another prevalence only
    moves them on the logit scale, where `intervals` are symmetric. So they are computed once, at a prevalence of one
    half.

    Args:
        positive: bool, (n,), which images are of the positive class.
        values: (n,), their probabilities of it; an image is called positive from `threshold` on.
        groups, with_intervals: see `intervals`.
        prevalences: between 0 and 1.

    Returns:
        A row per prevalence and score: prevalence, score ("ppv" or "npv"), estimate, low, high.
    """
    called = values >= threshold
    cells = np.stack([positive & called, positive & ~called, ~positive & called, ~positive & ~called], axis=1)

    def at_one_half(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = rates(*(weights @ cells).T)
        hits, passes = found["sensitivity"], found["specificity"]
        return {"ppv": divide(hits, hits + 1 - passes), "npv": divide(passes, passes + 1 - hits)}

    fewest = rate_groups(positive, called, groups)["auc"]
    found = intervals(at_one_half, groups, {"ppv": fewest, "npv": fewest}, with_intervals)
    with np.errstate(divide="ignore"):  # the logit of 0 and 1
        scale, shifts = logit(found), logit(prevalences)
    tables = [expit(scale.add(pd.Series({"ppv": shift, "npv": -shift}), axis=0)).assign(prevalence=prevalence)
              for prevalence, shift in zip(prevalences, shifts, strict=True)]
    return pd.concat(tables).reset_index(names="score")[["prevalence", "score", "estimate", "low", "high"]]
