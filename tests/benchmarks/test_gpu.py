import gpu
import pandas as pd
import torch

from busfast.bench import epoch
from busfast.bench.report import Report


def test_without_a_gpu_the_reason_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "why_no_cuda", lambda: "there is no NVIDIA driver")
    gpu.main(["--nonsense"])
    assert capsys.readouterr().out == "skipped: there is no NVIDIA driver\n"


def test_the_table_has_the_ratio_to_the_ceiling_of_each_batch_size(tmp_path, monkeypatch):
    def run(folder, images, arch, size, bs, rounds, threads, device, only):
        names = ["stock", *only] if bs == 32 else only[2:]
        rows = pd.DataFrame({"name": names, "img_per_s": [bs * (number + 1.0) for number in range(len(names))]})
        return Report("", rows, ("img_per_s", ""), skipped={} if bs == 32 else {"busfast cached": "too large"})

    monkeypatch.setattr(epoch, "run", run)
    monkeypatch.setattr(gpu, "choose_device", lambda name: torch.device("cpu"))
    report = gpu.run(tmp_path, "", 4, "x", 32, 1, 1)
    assert report.rows["name"].tolist() == [
        "in its memory, 32", "from the disk, 32", "decoded, 32", "ceiling, 32",
        "decoded, 128", "ceiling, 128", "decoded, 512", "ceiling, 512"]
    assert report.rows["ratio"].tolist() == [0.4, 0.6, 0.8, 1, 0.5, 1, 0.5, 1]
    assert report.skipped == {"in its memory, 128": "too large", "in its memory, 512": "too large"}
