import duplicates
from PIL import Image


def test_a_line_is_printed_for_each_count(capsys):
    duplicates.measure_growth([40, 80])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "4 pairs" in lines[0] and "grows as n^" in lines[1]


def test_altered_copies_of_the_phantom_are_found_and_no_strangers(phantom_folder, monkeypatch, capsys):
    image = Image.open(next((phantom_folder / "images").iterdir())).convert("L")
    assert all(change(image).mode == "L" for change in duplicates.CHANGES.values())
    measured = ("mirrored", "JPEG, quality 50", "upside down")
    monkeypatch.setattr(duplicates, "CHANGES", {name: duplicates.CHANGES[name] for name in measured})
    duplicates.measure_strangers(phantom_folder)
    duplicates.measure_recall(phantom_folder, sample=10)
    out = capsys.readouterr().out
    assert ", 0 at 0.6 or more" in out
    shares = dict(line.split("found:") for line in out.splitlines() if "found:" in line)
    assert float(shares[f"{'mirrored':30} "]) == float(shares[f"{'JPEG, quality 50':30} "]) == 1
    assert float(shares[f"{'upside down':30} "]) == 0
