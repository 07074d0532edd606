"""The cores that a process may use, and how its threads wait; ranks: tests/training/distributed/test_distributed.py."""

import math
import os
import subprocess
import sys

import pytest

from busfast import processes
from busfast.processes import cores, cores_per_process, cpu_quota, threads_per_process


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Writes /proc/self/cgroup and files below /sys/fs/cgroup."""
    monkeypatch.setattr(processes, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processes, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return write


ONE = "5:memory:/job\n2:cpu,cpuacct:/job\n"


@pytest.mark.parametrize(("own", "files", "quota", "usable"), [
    ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5, 3),  # a container that sees its own cgroup as the root
    ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf, 16),
    ("0::/\n", {"cpu.max": "5000 100000\n"}, 0.05, 1),
    ("0::/slurm/job/step\n", {"slurm/job/cpu.max": "400000 100000\n", "slurm/job/step/cpu.max": "max 100000\n"}, 4, 4),
    ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "900000 100000\n"}, 2, 2),
    (ONE, {"cpu/job/cpu.cfs_quota_us": "150000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 1.5, 2),
    (ONE, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3, 3),  # /job is not seen inside
    (ONE, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf, 16),
    ("0::/\n", {"cpu.max": "6400000 100000\n"}, 64, 16),
])
def test_cores_are_at_most_the_quota_of_any_cgroup_above(cgroup, own, files, quota, usable):
    cgroup(own, files)
    assert (cpu_quota(), cores()) == (quota, usable)


def test_where_there_are_no_cgroups_there_is_no_quota(cgroup):
    assert (cpu_quota(), cores(), cores_per_process(3)) == (math.inf, 16, 5)


@pytest.mark.parametrize(("wanted", "found"), [
    ("3", 3), ("99", 99), ("6,2", 6), ("", 8), ("0", 8), ("many", 8), (None, 8),
])
def test_omp_num_threads_counts_before_the_share_of_the_cores(cgroup, monkeypatch, wanted, found):
    monkeypatch.delenv("OMP_NUM_THREADS") if wanted is None else monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert threads_per_process(2) == found


@pytest.mark.parametrize(("user", "first", "found"), [
    ({}, "", "10000 None True"), ({}, "import torch; ", "10000 None False"),
    ({"GOMP_SPINCOUNT": "5"}, "", "5 None False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "", "None ACTIVE False"),
])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise_or_imported_torch_before(user, first, found):
    code = (f"import os; {first}import busfast; print(os.environ.get('GOMP_SPINCOUNT'), "
            "os.environ.get('OMP_WAIT_POLICY'), busfast.THREADS_SLEEP)")
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment | user, text=True).strip() == found
