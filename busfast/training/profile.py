"""Where an epoch's time goes: a callback that reads one clock at every border between phases."""

from time import perf_counter_ns

import torch
from fastai.callback.core import Callback

PHASES = {"waiting": "waiting for data", "to_device": "to device", "forward": "forward, with loss",
          "backward": "backward", "optimizer": "optimizer", "validation": "validation",
          "callbacks": "callbacks, other"}
BRAKE = 0.1  # share of an epoch that training may wait for data before the loader counts as the brake
_WAITS = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}  # else a GPU's work counts where it is awaited


class Profile(Callback):
    """Measures each epoch's phases and prints them as a small table at its end.

    Whatever passes between two borders counts for exactly one phase, so that the phases add up to the epoch. On a
    GPU every border waits until the work so far is done, which itself slows an epoch a little. What a DataLoader does
    is waiting, but for the borders that it sets itself: if its class has a method `lap(phase)`, `Profile`'s takes
    its place.

    Attributes:
        rows: a dict an epoch: epoch (from 1), seconds of each phase (the keys of `PHASES`), seconds (their sum).
    """

    order = -1000  # at every event before the other callbacks; `_Last` comes after them

    def before_fit(self):
        self.rows, self.nanoseconds = [], None
        self._synchronize = _WAITS.get(self.dls.device.type, lambda: None)
        self.learn.add_cb(_Last(self))

    def before_epoch(self):
        self._synchronize()
        self.nanoseconds, self._validating, self._border = dict.fromkeys(PHASES, 0), False, perf_counter_ns()

    def before_train(self):
        self.learn.dl = _Watched(self.learn.dl, self.lap)

    def before_batch(self):
        self.lap("to_device")

    def after_pred(self):
        self.lap("forward")

    def after_loss(self):
        self.lap("forward")

    def before_backward(self):
        self.lap("callbacks")

    def after_backward(self):
        self.lap("backward")

    def before_step(self):
        self.lap("callbacks")

    def after_step(self):
        self.lap("optimizer")

    def after_batch(self):
        self.lap("optimizer")  # setting the gradients to zero

    def before_validate(self):
        self.lap("callbacks")
        self._validating = True

    def after_epoch(self):
        self.lap("callbacks")

    def after_fit(self):
        self.end_epoch()  # if a callback ended the fit in after_epoch, so that `_Last` was not reached
        self.learn.remove_cbs(_Last)

    def lap(self, phase: str) -> None:
        """Counts the time since the last border for a phase (of `PHASES`); all of validation is one phase."""
        self._synchronize()
        now = perf_counter_ns()
        self.nanoseconds["validation" if self._validating else phase] += now - self._border
        self._border = now

    def end_epoch(self) -> None:
        """Closes the epoch, if one is open, and prints its table."""
        if self.nanoseconds is None:
            return
        self.lap("callbacks")
        self.rows.append({"epoch": self.epoch + 1, **{name: value / 1e9 for name, value in self.nanoseconds.items()},
                          "seconds": sum(self.nanoseconds.values()) / 1e9})
        self.nanoseconds = None
        print(format_profile(self.rows[-1]), flush=True)


class _Last(Callback):
    """The border after the other callbacks of an event."""

    order = 1000

    def __init__(self, profile: Profile):
        self.profile = profile

    def __call__(self, event_name):
        if self.profile.learn is None:  # its fit failed: nobody measures any more
            self.learn.remove_cb(self)
        else:
            super().__call__(event_name)

    def _callbacks(self):
        self.profile.lap("callbacks")

    before_batch = after_pred = after_loss = before_backward = after_backward = _callbacks
    before_step = after_step = after_batch = before_train = after_train = before_validate = _callbacks

    def after_validate(self):
        self.profile.lap("validation")
        self.profile._validating = False

    def after_epoch(self):
        self.profile.end_epoch()


class _Watched:
    """A DataLoader with a border before and after the making of each batch."""

    def __init__(self, dl, lap):
        self.dl, self.lap = dl, lap

    def __len__(self):
        return len(self.dl)

    def __getattr__(self, name):
        return getattr(self.dl, name)

    def __iter__(self):
        has_borders = hasattr(type(self.dl), "lap")
        if has_borders:
            self.dl.lap = self.lap
        try:
            batches = iter(self.dl)
            while True:
                self.lap("callbacks")
                batch = next(batches, None)
                self.lap("waiting")
                if batch is None:
                    return
                yield batch
        finally:
            if has_borders:
                del self.dl.lap


def format_profile(row: dict) -> str:
    """Returns a row of `Profile.rows` as a table: seconds, share, and whether the loader is the brake."""
    total = max(row["seconds"], 1e-9)
    lines = [f"profile of epoch {row['epoch']}: {row['seconds']:.1f} s"]
    lines += [f"  {words:18}{row[name]:9.2f} s {row[name] / total:6.1%}" for name, words in PHASES.items()]
    share = row["waiting"] / total
    if share > BRAKE:
        lines.append(f"  The loader is the brake: {share:.1%} of the epoch went by waiting for data. Keep decoded "
                     "pixels (--cache=auto) or give more --threads.")
    else:
        lines.append(f"  The loader is not the brake: {share:.1%} of the epoch went by waiting for data.")
    return "\n".join(lines)
