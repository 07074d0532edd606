"""Which batch size fits is estimated before training; a warning names one that fits."""

import pytest
import timm
import torch
from conftest import ARCH, SIZE

from busfast.pipelines.config import Config
from busfast.training import batch_size
from busfast.training.batch_size import Memory, fit_batch_size, is_out_of_memory, measure_memory

CPU = torch.device("cpu")


def config(**own):
    return Config(**({"data": "data", "arch": ARCH, "size": SIZE, "bs": 32, "device": "cpu",
                      "classes": ("normal", "benign", "malignant")} | own))


def test_what_a_step_keeps_grows_with_the_area_of_the_images_and_no_random_number_is_drawn():
    state = torch.get_rng_state()
    small, large = measure_memory(config(), CPU), measure_memory(config(size=2 * SIZE), CPU)
    assert 3.5 < large.image / small.image < 4.5
    assert torch.equal(torch.get_rng_state(), state)
    weights = sum(param.numel() for param in timm.create_model(ARCH, num_classes=3).parameters())
    assert small.model == large.model == 4 * 4 * weights  # weights, gradients, two moments; 4 bytes each


def test_free_memory_is_known_on_linux():
    free = batch_size.free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e14


def room(monkeypatch, images):
    """Makes memory for as many images, and no more."""
    found = measure_memory(config(), CPU)
    free = None if images is None else int(found.needed(images) / (1 - batch_size.MARGIN)) + 100
    monkeypatch.setattr(batch_size, "free_memory", lambda device: free)


@pytest.mark.parametrize(("images", "bs", "smaller"), [(100, 32, 16), (32, 32, 16), (31, 16, 8), (9, 8, 4), (1, 2, 2),
                                                       (None, 32, 16)])
def test_auto_takes_the_pipelines_own_size_or_the_largest_power_of_two_that_fits(images, bs, smaller, monkeypatch,
                                                                                 capsys):
    room(monkeypatch, images)
    chosen, less = fit_batch_size(config(), auto=True, device=CPU)
    assert (chosen.bs, less) == (bs, smaller)
    assert capsys.readouterr().out.startswith(f"bs: {bs} (auto: ")


def test_a_size_that_was_asked_for_is_kept_and_a_warning_names_one_that_fits(monkeypatch, capsys):
    room(monkeypatch, 12)
    chosen, less = fit_batch_size(config(), auto=False, device=CPU)
    assert (chosen.bs, less) == (32, 8)
    assert "WARNING: bs=32 needs about" in (said := capsys.readouterr().out) and "--bs=8 should fit" in said
    room(monkeypatch, 32)
    assert fit_batch_size(config(), auto=False, device=CPU)[0].bs == 32 and capsys.readouterr().out == ""


def test_where_not_even_two_images_fit_the_warning_says_what_to_change(monkeypatch, capsys):
    room(monkeypatch, 1)
    fit_batch_size(config(), auto=False, device=CPU)
    assert "not even --bs=2 fits: give a smaller --size or another --arch" in capsys.readouterr().out


def test_what_fits_leaves_a_margin():
    assert Memory(image=100, model=1000, free=None).fits(10**9)
    assert Memory(image=100, model=0, free=1000).needed(4) == 600
    assert Memory(image=100, model=0, free=1000).fits(6) and not Memory(image=100, model=0, free=1000).fits(7)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory"), RuntimeError("std::bad_alloc"),
    RuntimeError("Error in MIXED operator `nvidia.dali.fn.decoders.image`:\nCUDA allocation failed")])
def test_errors_of_every_allocator_are_known(error):
    assert is_out_of_memory(error)
    try:
        try:
            raise error
        except Exception:
            raise IndexError("tuple index out of range")  # noqa: B904  (as fastai does)
    except IndexError as other:
        assert is_out_of_memory(other)


def test_other_errors_are_none():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
