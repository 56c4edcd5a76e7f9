"""agent/publisher.py over a real segment; workers are played by a wrapper."""

from __future__ import annotations

from typing import Any

import pytest

from fastmesh._core.shm.segment import Segment, SnapshotBusy
from fastmesh.agent.loop import Loop
from fastmesh.agent.publisher import Publisher
from fastmesh.supervisor.log import Log


def config(name: str = "c", port: int = 80) -> Any:
    return {
        "node_id": "n",
        "listeners": [{"name": "l", "kind": "gateway", "address": "0.0.0.0", "port": 8080, "table": "t"}],
        "tables": [
            {
                "name": "t",
                "virtual_hosts": [
                    {"name": "v", "domains": ["*"], "routes": [{"dests": [{"cluster": name, "weight": 1}]}]}
                ],
            }
        ],
        "clusters": [{"name": name, "endpoints": [{"address": "10.0.0.1", "port": port}]}],
        "tls": [],
    }


class Workers:
    """A segment whose workers say what the test lets them say."""

    def __init__(self) -> None:
        self.segment = Segment.create(1)
        self.seen = 0
        self.refused = 0
        self.busy = 0

    def applied(self, generation: int) -> bool:
        return self.seen >= generation

    def worker(self, row: int) -> dict[str, int]:
        return {**self.segment.worker(row), "pid": 5, "refused_gen": self.refused}

    def publish(self, packed: bytes) -> int:
        if self.busy:
            self.busy -= 1
            raise SnapshotBusy("full")
        generation: int = self.segment.publish(packed)
        return generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.segment, name)


class Bench:
    def __init__(self) -> None:
        self.workers = Workers()
        self.loop = Loop(self.failed)
        self.publisher = Publisher(self.loop, self.workers.segment, Log("t", fd=-1))
        self.publisher._segment = self.workers  # the cells are the segment's own
        self.told: list[tuple[str, int, str]] = []

    def failed(self, error: BaseException) -> None:
        raise AssertionError from error

    def submit(self, made: Any, name: str = "") -> None:
        self.publisher.submit(
            made,
            lambda g, r: self.told.append((f"{name}accepted", g, r)),
            lambda g, r: self.told.append((f"{name}applied", g, r)),
        )

    def run(self, seconds: float = 0.1) -> None:
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def until(self, count: int) -> None:
        for _ in range(200):
            if len(self.told) >= count:
                return
            self.run(0.02)
        raise AssertionError(self.told)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_applied_is_told_when_the_workers_have_it_and_not_before(bench: Bench) -> None:
    bench.submit(config())
    bench.run()
    assert bench.told == [("accepted", 1, "")]
    bench.workers.seen = 1
    bench.until(2)
    assert bench.told[1] == ("applied", 1, "")
    assert bench.publisher.config == config()


def test_the_same_again_is_no_new_generation(bench: Bench) -> None:
    bench.workers.seen = 1
    bench.submit(config())
    bench.submit(config())
    bench.until(4)
    assert bench.publisher.generation == 1


def test_a_config_that_cannot_be_packed_leaves_the_old_one(bench: Bench) -> None:
    bench.workers.seen = 1
    bench.submit(config())
    bench.until(2)
    bench.submit(config(port=99999))
    bench.until(3)
    kind, generation, reason = bench.told[2]
    assert (kind, generation) == ("accepted", 0) and "clusters[0].endpoints[0].port" in reason
    assert bench.publisher.generation == 1 and bench.publisher.rejected == 1
    assert bench.publisher.config == config()
    assert bench.workers.segment.generation == 1


def test_a_worker_that_cannot_use_it_is_told(bench: Bench) -> None:
    bench.submit(config())
    bench.run()
    bench.workers.refused = 1
    bench.until(2)
    assert bench.told[1][:2] == ("applied", 0) and "cannot use generation 1" in bench.told[1][2]


def test_a_full_house_is_waited_for_and_only_the_newest_is_published(bench: Bench) -> None:
    bench.workers.busy = 2
    bench.workers.seen = 1
    bench.submit(config("a"), "first ")
    bench.submit(config("b"), "second ")
    assert bench.told == []
    bench.until(4)
    assert [kind for kind, _, _ in bench.told[:2]] == ["first accepted", "second accepted"]
    assert bench.publisher.generation == 1
    assert bench.publisher.config == config("b")


def test_a_generation_left_out_for_one_that_is_refused_is_not_waited_for(bench: Bench) -> None:
    bench.submit(config("a"), "first ")
    bench.submit(config("b"), "second ")
    bench.workers.refused = 2
    bench.until(4)
    assert [(kind, generation) for kind, generation, _ in bench.told[2:]] == [
        ("first applied", 0),
        ("second applied", 0),
    ]
    bench.submit(config("c"), "third ")
    bench.workers.seen = 3
    bench.until(6)
    assert bench.told[-1] == ("third applied", 3, "")


def test_who_is_told_of_a_refusal_may_publish_something_else_at_once(bench: Bench) -> None:
    told: list[tuple[int, str]] = []

    def applied(generation: int, reason: str) -> None:
        told.append((generation, reason))
        bench.submit(config("b"))

    bench.workers.refused = 1
    bench.publisher.submit(config("a"), lambda g, r: None, applied)
    bench.until(1)
    bench.workers.seen = 2
    bench.until(2)
    assert bench.told == [("accepted", 2, ""), ("applied", 2, "")]
    assert [generation for generation, _ in told] == [0], "told once"
