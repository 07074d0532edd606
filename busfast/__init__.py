"""busfast: from a folder of medical images to a trained, evaluated, exported classifier. Not a medical device."""

from busfast.imports import lazy_names

__version__ = "0.1.0"
MODULES = {"accelerate": "busfast.models.accelerate", "dataloaders": "busfast.pipelines.from_data",
           "learner": "busfast.models.learner"}
__all__ = ["__version__", *MODULES]
__getattr__ = lazy_names(__name__, MODULES)
