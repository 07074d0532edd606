"""Trained weights -> predictions: bundle, engines, predictor, Grad-CAM, outlier score. Nothing here trains."""

from busfast.imports import lazy_names

MODULES = {
    "load_predictor": ".predictor",
    "predict_images": ".stream",
    "export_learner": ".fastai_export",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
