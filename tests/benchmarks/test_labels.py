import labels
import pandas as pd

from busfast.data.phantom import write_phantom


def test_a_twentieth_of_the_labels_is_made_wrong_and_what_is_found_of_them_counted(tmp_path):
    table = write_phantom(tmp_path / "phantom", images=60)
    before = pd.read_csv(table)
    flipped = labels.flip(table, seed=1)
    after = pd.read_csv(table)
    assert set(after["image"][after["label"] != before["label"]]) == flipped and len(flipped) == 3
    assert after.drop(columns="label").equals(before.drop(columns="label"))
    predictions = before.assign(predicted=before["label"], label=after["label"])
    for name in set(before["label"]):
        predictions[f"p_{name}"] = (before["label"] == name).astype(float)
    found = labels.count(flipped, before.head(10), predictions)
    assert found[labels.MODEL] == found[labels.FIRST] == (3, 3)
    assert found[labels.LISTED] == (10, len(flipped & set(before["image"].head(10))))
