from types import SimpleNamespace

import numpy as np
import outlier
import pytest
from PIL import Image

from busfast.data.images import read_image


def test_each_form_of_the_test_part_and_each_folder_gets_its_share(tmp_path, monkeypatch):
    for number in range(4):
        (tmp_path / "dark").mkdir(exist_ok=True)
        Image.new("L", (20, 10), 100 + number).save(tmp_path / f"{number}.png")
        Image.new("L", (20, 10), number).save(tmp_path / "dark" / f"{number}.png")
    (tmp_path / "split.csv").write_text("image,label,part\n" + "".join(
        f"{number}.png,a,{part}\n" for number, part in enumerate(("train", "test", "test", "unused"))))
    # Unlike is what is far from a mean gray of 100.
    predictor = SimpleNamespace(
        engine=SimpleNamespace(read=lambda source: np.asarray(read_image(source).convert("L"), float).mean(),
                               infer=lambda images: SimpleNamespace(features=np.array(images))),
        outlier=SimpleNamespace(score=lambda features: np.abs(features - 100) / 20))
    monkeypatch.setattr(outlier, "load_predictor", lambda path: predictor)
    rows = outlier.run(tmp_path, "bundle", str(tmp_path / "split.csv"), str(tmp_path), str(tmp_path / "dark"), 3).rows
    rows = rows.set_index("name")
    assert rows["images"].to_dict() == {name: 2 for name in outlier.FORMS} | {"noise": 3, "constant": 20,
                                                                             str(tmp_path / "dark"): 3}
    assert (rows.loc[["test part", "in color", "BMP", "0.5 of its size", "upside down"], "unlike"] == 0).all()
    assert (rows.loc[["inverted", "noise", str(tmp_path / "dark")], "unlike"] == 1).all()
    assert rows.loc["constant", "unlike"] == pytest.approx(17 / 20)
    assert rows.loc["test part", "median"] == pytest.approx(1.5 / 20)
