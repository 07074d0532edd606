"""Tables without files, for the tests of splits."""

import numpy as np
import pandas as pd

from busfast.data.table import CLASSES

COLUMNS = ["image", "label", "center", "patient", "device", "mask"]
CENTERS = {"alpha": 0.5, "beta": 0.3, "gamma": 0.2}


def make_table(rows):
    """A table of (label, center, patient) rows."""
    rows = [(f"images/{number}.png", *row, "", "") for number, row in enumerate(rows)]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def random_table(seed, patients=200, mixed=0.1, ids_by_center=False):
    """One to four images a patient; `mixed`: how often an image shows another class than the patient's own."""
    rng = np.random.default_rng(seed)
    rows, numbers = [], dict.fromkeys(CENTERS, 0)
    for patient in range(patients):
        center = str(rng.choice(list(CENTERS), p=list(CENTERS.values())))
        own = str(rng.choice(CLASSES, p=[0.25, 0.5, 0.25]))
        numbers[center] += 1
        name = str(numbers[center] if ids_by_center else patient)
        rows += [(str(rng.choice(CLASSES)) if rng.random() < mixed else own, center, name)
                 for _ in range(rng.integers(1, 5))]
    return make_table(rows)


def tiny_table(*counts, center="alpha"):
    """One image a patient; as many patients of each class as said."""
    labels = [label for label, count in zip(CLASSES, counts, strict=False) for _ in range(count)]
    return make_table([(label, center, f"{center} {number}") for number, label in enumerate(labels)])


def joined(*tables):
    table = pd.concat(tables, ignore_index=True)
    return table.assign(image=[f"images/{number}.png" for number in range(len(table))])


def images(split, part):
    return set(split.only(part).rows["image"])
