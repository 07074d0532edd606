"""How many threads torch computes with in this process."""

from functools import cache

import torch

from busfast.processes import threads_per_process


def use_threads(threads: int = 0) -> int:
    """Sets how many threads torch computes with; the last bits of what it computes on a CPU depend on that.

    Args:
        threads: 0: torch's own number (OMP_NUM_THREADS; else one per physical core), at most the cores of this process.

    Returns:
        The number.
    """
    torch.set_num_threads(threads or _automatic())
    return torch.get_num_threads()


@cache
def _automatic() -> int:
    """What an earlier run in this process has set does not count."""
    return min(torch.get_num_threads(), threads_per_process())
