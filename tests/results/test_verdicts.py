"""A verdict is what the interval of a difference shows, and nothing more."""

import numpy as np
import pytest

from busfast.results.verdicts import describe_change, judge

WORDS = ("it misleads", "it is used", "it is not needed")


@pytest.mark.parametrize(("change", "verdict", "sentence"), [
    ((-0.21, -0.27, -0.15), "material", "Covering it costs 0.210 (0.150 to 0.270): it is used."),
    ((0.21, 0.15, 0.27), "material", "Covering it gains 0.210 (0.150 to 0.270): it misleads."),
    ((-0.03, -0.05, -0.01), "unsure", "Covering it costs 0.030 (0.010 to 0.050): it is used, perhaps only a little."),
    ((-0.01, -0.015, -0.005), "small", "Covering it costs 0.010 (0.005 to 0.015): shown, but small."),
    ((-0.01, -0.04, 0.02), "open", "Covering it: no difference shown (-0.040 to +0.020); one of 0.02 or more is not "
     "ruled out."),
    ((0.001, -0.01, 0.012), "none", "Covering it: no difference shown (-0.010 to +0.012), and none of 0.02 or more: it "
     "is not needed."),
    ((-0.2, np.nan, np.nan), "few", "Too few patients: no verdict."),
    ((np.nan, np.nan, np.nan), "undefined", "The score is not defined here: no verdict."),
])
def test_each_interval_has_its_verdict(change, verdict, sentence):
    assert judge(*change) == verdict and describe_change("Covering it", *change, WORDS) == sentence
