"""A cluster with outlier detection and its workers, without sockets: results in, verdicts out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import Segment
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from helpers.irconf import cluster, config

OK, E5XX, GATEWAY, LOCAL = range(4)
S = 10**9
NOW = 10**15


class Setup:
    """A cluster "c" with outlier detection, and its workers."""

    def __init__(self, endpoints: int = 2, workers: int = 1, lb: str = "ROUND_ROBIN", **outlier: Any) -> None:
        self.segment = Segment.create(workers)
        made = cluster("c", *range(1, endpoints + 1), lb=lb, outlier={"max_percent": 100, **outlier})
        self.map = CellMap(self.segment)
        packed = pack(config(clusters=[made]), self.map)
        self.segment.publish(packed)
        self.frozen = Frozen(packed)
        assert self.frozen.check() is None
        self.views = [WorkerView(self.segment, i) for i in range(workers)]
        self.workers = [Balancer(self.frozen, view, 11 + i) for i, view in enumerate(self.views)]
        self.cells = {int(k.rpartition(":")[2]): v for k, v in self.workers[0].cells("c").items()}
        self.now = NOW

    def result(self, port: int, kind: int, n: int = 1, worker: int = 0, probe: bool = False) -> None:
        for _ in range(n):
            self.workers[worker].result("c", self.cells[port], kind, now=self.now, probe=probe)

    def pick(self, worker: int = 0) -> tuple[int | None, bool]:
        text, probe = self.workers[worker].attempt("c", now=self.now)
        return (None if text is None else int(text.rpartition(":")[2])), probe

    def picks(self, n: int = 50) -> Counter[int | None]:
        return Counter(self.pick()[0] for _ in range(n))

    def state(self, port: int) -> dict[str, int]:
        return clusters.verdict(self.segment, self.cells[port])

    def until(self, port: int) -> int:
        """Seconds of ejection that are left."""
        return max(0, self.state(port)["ejected_until"] - self.now) // S

    def counters(self) -> dict[str, int]:
        return {k: v for k, v in self.segment.counters().items() if k.startswith("od_") and v}

    def probe(self, worker: int = 0) -> int:
        """The endpoint that a probe is sent to; others get their requests."""
        for _ in range(200):
            port, probe = self.pick(worker)
            if probe:
                assert port is not None
                return port
        raise AssertionError("no probe")

    @property
    def ejected(self) -> int:
        return clusters.stats(self.segment, self.map.clusters[next(iter(self.map.clusters))])["ejected"]
