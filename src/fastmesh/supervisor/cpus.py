"""How many processors this process may use: the default number of workers."""

from __future__ import annotations

import os


def quota(root: str = "/sys/fs/cgroup") -> float | None:
    """The cgroup's CPU quota in processors (version 2, then 1), None: unlimited or unknown."""
    try:
        with open(f"{root}/cpu.max") as file:
            limit, period = file.read().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        with open(f"{root}/cpu/cpu.cfs_quota_us") as file:
            microseconds = int(file.read())
        with open(f"{root}/cpu/cpu.cfs_period_us") as file:
            return None if microseconds <= 0 else microseconds / int(file.read())
    except (OSError, ValueError):
        return None


def usable(root: str = "/sys/fs/cgroup") -> int:
    """At least one; a quota of 1.5 processors is worth two workers."""
    affinity = len(os.sched_getaffinity(0))
    limit = quota(root)
    return max(1, affinity if limit is None else min(affinity, -int(-limit // 1)))
