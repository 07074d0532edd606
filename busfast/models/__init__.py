"""A timm name -> a model with its start weights, a fastai Learner, and the parts of a fast step."""

from busfast.imports import lazy_names

MODULES = {
    "make_learner": ".learner",
    "cosine": ".learner",
    "make_model": ".weights",
    "load_state": ".weights",
    "make_metrics": ".metrics",
    # Names of version 0.1 whose code moved up a floor; notebooks may go on importing them from here.
    "load_predictor": "busfast.inference.predictor",
    "predict_images": "busfast.inference.stream",
    "export_learner": "busfast.inference.fastai_export",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
