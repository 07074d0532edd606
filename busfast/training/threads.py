"""Notices at the start of a run on a CPU that torch's threads take the cores from each other, and goes on with one."""

import time

import torch
from fastai.callback.core import Callback

from busfast import THREADS_SLEEP
from busfast.pipelines.threads import use_threads

CHECKED = (2, 4, 8)  # steps of a run
BUSY = 0.75  # share of the threads' time that a step computes for; less: other processes may use the cores
WASTE = 1.1  # of `cost`: one thread alone would compute less than this one does together with others
SECONDS = 0.1


class GiveWay(Callback):
    """Goes on with one thread, for the rest of the run, if several wait for each other by spinning, beside other
    processes. Only where busfast could not have them sleep: torch was imported before, or a variable was set.

    So no result of the command line depends on what else runs, unless OpenMP's variables are set.
    """

    def before_fit(self):
        self.steps = 0

    def before_batch(self):
        self.began = time.perf_counter(), time.process_time()

    def after_batch(self):
        if THREADS_SLEEP or not self.training or self.dls.device.type != "cpu" or self.steps >= CHECKED[-1]:
            return
        self.steps += 1
        threads, (wall, processor) = torch.get_num_threads(), self.began
        share = (time.process_time() - processor) / (threads * (time.perf_counter() - wall))
        if self.steps in CHECKED and threads > 1 and share < BUSY and cost(threads) > WASTE:
            use_threads(1)
            print(f"threads: other processes use these cores, and {threads} threads lose more time in waiting for each "
                  "other than they save. This run goes on with one, so its last bits differ from those of a run with "
                  "more. Import busfast before torch and leave OpenMP's variables unset, or give --threads=1.")


def cost(threads: int) -> float:
    """Returns how much this thread computes for a convolution that it shares with others, spinning included, as a
    multiple of what it computes for it alone; 1 / threads would be ideal."""
    pixels, weight = torch.ones(4, 16, 56, 56), torch.ones(16, 16, 3, 3)

    def seconds(number: int) -> float:
        torch.set_num_threads(number)
        torch.conv2d(pixels, weight)  # starts the threads
        count, ends, start = 0, time.perf_counter() + SECONDS, time.thread_time()
        while time.perf_counter() < ends:
            torch.conv2d(pixels, weight)
            count += 1
        return (time.thread_time() - start) / max(1, count)

    alone = seconds(1)
    return seconds(threads) / alone
