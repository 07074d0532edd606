"""What goes wrong in the second of two ranks, in the second batch; set up in each rank before it trains."""

import os

from busfast.errors import UserError
from busfast.training.guards import RaiseOnSignal


def _before_batch(spoil):
    def before_batch(self):
        if os.environ.get("SPOILT") and self.iter == 1:
            spoil(self)
    RaiseOnSignal.before_batch = before_batch
    if os.environ["RANK"] == "1":
        os.environ["SPOILT"] = "1"


def pixels_become_nan():
    _before_batch(lambda callback: setattr(callback.learn, "xb", (callback.xb[0] * float("nan"),)))


def image_becomes_unreadable():
    def fail(callback):
        raise UserError("The image x.png cannot be read.")
    _before_batch(fail)
