"""A sweep that version 0.1 began can be resumed, unless it used a setting that is gone."""

import pytest

from busfast.errors import UserError
from busfast.sweep.study import check_same
from busfast.training.runs import Run


def test_a_sweep_of_0_1_is_resumed_unless_a_removed_setting_was_used():
    asked = {"epochs": 3}
    check_same(Run("p/sweep-stratified"), {"epochs": 3, "progressive": []}, asked)
    with pytest.raises(UserError, match=r"progressive is \[48\] there and None here.*leave out --resume"):
        check_same(Run("p/sweep-stratified"), {"epochs": 3, "progressive": [48]}, asked)
