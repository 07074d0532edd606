"""DataLoaders -> Learner -> trained weights, exported models, predictions."""

from importlib import import_module

_WHERE = {"make_learner": "learner", "cosine": "learner", "make_model": "weights", "load_state": "weights",
          "make_metrics": "metrics", "export_learner": "export", "predict_images": "predict",
          "load_predictor": "predictor"}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
