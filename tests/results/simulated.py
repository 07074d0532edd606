"""Simulated predictions that several test files score."""

import numpy as np

from busfast.results.calibration import calibrate

CLASSES = ("normal", "benign", "malignant")


def simulate_predictions(n, seed, ties=False):
    """Labels, probabilities and integer weights of n images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[labels]
    if ties:
        logits = np.round(logits)
    return labels, calibrate(logits, 1), rng.integers(0, 4, n)
