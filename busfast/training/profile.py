"""Where an epoch's time goes: a callback that reads one clock at every border between two phases."""

from time import perf_counter_ns

from fastai.callback.core import Callback

from busfast.pipelines.devices import synchronize

PHASES = {"waiting": "waiting for data", "to_device": "to device", "forward": "forward, with loss",
          "backward": "backward", "optimizer": "optimizer", "validation": "validation",
          "callbacks": "callbacks, other"}
BOTTLENECK = 0.1  # share of an epoch spent waiting for data from which the loader is the bottleneck


def _lap(phase):
    return lambda callback: callback.lap(phase)


class Profile(Callback):
    """Measures each epoch's phases and prints them as a small table at its end; keeps them in `rows`, in seconds.

    The time between two borders counts for exactly one phase, so that the phases add up to the epoch. On a GPU every
    border waits for the pending work, which slows an epoch a little. A DataLoader's time counts as waiting, except
    where it sets borders itself: a class with a method `lap(phase)` gets `Profile.lap` instead.
    """

    order = -1000  # before the other callbacks of each event; `_Last` runs after them

    def before_fit(self):
        self.rows, self.nanoseconds = [], None
        self.learn.add_cb(_Last(self))

    def before_epoch(self):
        synchronize(self.dls.device)
        self.nanoseconds, self._validating, self._border = dict.fromkeys(PHASES, 0), False, perf_counter_ns()

    def before_train(self):
        self.learn.dl = _Watched(self.learn.dl, self.lap)

    before_batch = _lap("to_device")
    after_pred = after_loss = _lap("forward")
    before_backward = before_step = after_epoch = _lap("callbacks")
    after_backward = _lap("backward")
    after_step = after_batch = _lap("optimizer")  # the step, then zero_grad

    def before_validate(self):
        self.lap("callbacks")
        self._validating = True

    def after_fit(self):
        self.end_epoch()  # if a callback ended the fit in after_epoch, before `_Last`
        self.learn.remove_cbs(_Last)

    def lap(self, phase: str) -> None:
        """Adds the time since the last border to a phase of `PHASES`; all of validation is one phase."""
        synchronize(self.dls.device)  # else a GPU's work would count for a later phase
        now = perf_counter_ns()
        self.nanoseconds["validation" if self._validating else phase] += now - self._border
        self._border = now

    def end_epoch(self) -> None:
        """Ends the epoch, unless it has ended already, and prints its table."""
        if self.nanoseconds is None:
            return
        self.lap("callbacks")
        self.rows.append({"epoch": self.epoch + 1, **{name: value / 1e9 for name, value in self.nanoseconds.items()},
                          "seconds": sum(self.nanoseconds.values()) / 1e9})
        self.nanoseconds = None
        print(format_profile(self.rows[-1]))


class _Last(Callback):
    """The border after the other callbacks of an event."""

    order = 1000

    def __init__(self, profile: Profile):
        self.profile, self.lap = profile, profile.lap

    def __call__(self, event_name):
        if self.profile.learn is None:  # left over from a fit that failed
            self.learn.remove_cb(self)
        else:
            super().__call__(event_name)

    before_batch = after_pred = after_loss = before_backward = after_backward = _lap("callbacks")
    before_step = after_step = after_batch = before_train = after_train = before_validate = _lap("callbacks")

    def after_validate(self):
        self.lap("validation")
        self.profile._validating = False

    def after_epoch(self):
        self.profile.end_epoch()


class _Watched:
    """A DataLoader with a border before and after each batch."""

    def __init__(self, dl, lap):
        self.dl, self.lap = dl, lap

    def __len__(self):
        return len(self.dl)

    def __getattr__(self, name):
        return getattr(self.dl, name)

    def __iter__(self):
        sets_borders = hasattr(type(self.dl), "lap")
        if sets_borders:
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
            if sets_borders:
                del self.dl.lap


def format_profile(row: dict) -> str:
    """Returns a row of `Profile.rows` as a table: seconds, share, and whether the loader is the bottleneck."""
    total = max(row["seconds"], 1e-9)
    lines = [f"profile of epoch {row['epoch']}: {row['seconds']:.1f} s"]
    lines += [f"  {label:18}{row[name]:9.2f} s {row[name] / total:6.1%}" for name, label in PHASES.items()]
    waiting = row["waiting"] / total
    slow = waiting > BOTTLENECK
    lines.append(f"  The loader is {'' if slow else 'not '}the bottleneck: {waiting:.1%} of the epoch was spent "
                 "waiting for data." + (" Cache decoded pixels (--cache=auto) or use more --threads." if slow else ""))
    return "\n".join(lines)
