"""Tensors on their way to the device, without the host waiting where it need not."""

from collections.abc import Iterable, Iterator

import torch


def send(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """Returns a CPU tensor on the device; to CUDA without waiting, from pinned memory.

    Elsewhere the copy is waited for: a non-blocking one of memory that is freed at once reads freed memory on MPS.
    """
    if device is None or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps pinned memory until it was copied


def send_ahead(batches: Iterable[torch.Tensor], device: torch.device | None) -> Iterator[torch.Tensor]:
    """Yields batches on the device; to CUDA they are copied beside the work on the previous one, in a stream of their
    own. What is on the device already stays."""
    if device is None or device.type != "cuda":
        yield from (send(batch, device) for batch in batches)
        return
    stream, waiting = torch.cuda.Stream(device), None
    for batch in batches:
        if not batch.is_cuda:
            with torch.cuda.stream(stream):
                batch = send(batch, device)
        if waiting is not None:
            yield _received(waiting, stream, device)
        waiting = batch
    if waiting is not None:
        yield _received(waiting, stream, device)


def _received(batch: torch.Tensor, stream: torch.cuda.Stream, device: torch.device) -> torch.Tensor:
    """The batch, for the stream that computes with it."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    batch.record_stream(current)  # its memory is not used again before that has ended
    return batch
