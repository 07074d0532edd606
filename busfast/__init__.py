"""busfast: from a folder of medical images to a trained, evaluated, exported classifier. Not a medical device."""

import os
import sys

from busfast.imports import lazy_names

# torch's threads spin while they wait for each other. Beside other processes that takes the cores from the very threads
# that are waited for, and training takes several times as long. So they sleep after a moment, which changes no result;
# a shorter one costs time on a quiet machine (benchmarks/busy.py). libgomp reads it when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
THREADS_SLEEP = os.environ.get("GOMP_SPINCOUNT") == "10000" and "torch" not in sys.modules

__version__ = "0.1.0"
MODULES = {"accelerate": "busfast.models.accelerate", "dataloaders": "busfast.pipelines.from_data",
           "learner": "busfast.models.learner"}
__all__ = ["__version__", *MODULES]
__getattr__ = lazy_names(__name__, MODULES)
