"""A timm name -> a model with its start weights, a fastai Learner, and the parts of a fast step."""

from busfast.imports import lazy_names

MODULES = {
    "make_learner": ".learner",
    "cosine": ".schedules",
    "make_model": ".weights",
    "load_state": ".weight_files",
    "make_metrics": ".metrics",
    # Names of version 0.1 whose code has moved to busfast.inference; notebooks can still import them from here.
    "load_predictor": "busfast.inference.predictor",
    "predict_images": "busfast.inference.stream",
    "export_learner": "busfast.inference.fastai_export",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
