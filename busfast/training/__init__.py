"""DataLoaders and a Learner -> a run: fit, callbacks, log, checkpoint, resume."""

from busfast.imports import lazy_names

MODULES = {
    "TrainOptions": ".job",
    "train_run": ".train",
    "find_run": ".runs",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
