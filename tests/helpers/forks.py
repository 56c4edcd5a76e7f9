"""Child processes that run a function of the test, sharing its memory maps."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> int:
    """Fork; the child's pid. Its status is 0 when work() came to an end and gave nothing false."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = 1 if work() is False else 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
