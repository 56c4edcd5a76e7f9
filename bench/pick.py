"""Choosing an endpoint: one of 10,000 against one of 10, by each way to balance.

Owns: what is between two choices. Must not know: how the choice is made.
The choice alone, without sockets, is timed by the test shim in a process of its own (`python -m bench.pick`),
twice: back to back, where the few endpoints of a small cluster never leave the innermost cache, and as a
request meets it, with other memory read in between. 10,000 fit no cache near the core: what is left of
the difference is memory, not steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from bench import check, load
from bench.peers import Peer
from bench.peers.fastmesh import REPO
from bench.scenarios import Bench, Row, Scenario

FEW, MANY = 10, 10_000
BETWEEN = 64 << 10  # bytes that a request reads otherwise: twice the innermost cache of most machines
PICKS, TURNS = 20_000, 9
LIMIT_SECONDS = 120.0
KEYED = {"RING_HASH": 1024, "MAGLEV": 65537}  # size of the table
WAYS = ("RANDOM", "ROUND_ROBIN", "LEAST_REQUEST", "PEAK_EWMA", *KEYED)


def name_of(way: str) -> str:
    return f"pick-{way.lower().replace('_', '-')}"


def _balancer(way: str, endpoints: int) -> Callable[[int], float]:
    """Nanoseconds of a choice with so many bytes of other memory in between."""
    policy: Any = __import__("shim.policy_shim", fromlist=["Balancer"])
    shm: Any = __import__("shim.shm_shim", fromlist=["Frozen"])
    irconf: Any = __import__("helpers.irconf", fromlist=["cluster"])
    from fastmesh._core.shm.segment import Segment

    more = {"hash": {"on": "header", "name": "x-key", "size": KEYED[way]}} if way in KEYED else {}
    cluster = irconf.cluster("c", *range(1, endpoints + 1), lb=way, **more)
    frozen, segment = shm.Frozen(irconf.packed(irconf.config(clusters=[cluster]))), Segment.create(1)
    made = policy.Balancer(frozen, shm.WorkerView(segment, 0), 7)

    def measure(between: int) -> float:
        taken: float = made.nanoseconds("c", PICKS, between=between, keyed=way in KEYED)
        return taken

    return measure


def measure(way: str) -> dict[str, float]:
    few, many = _balancer(way, FEW), _balancer(way, MANY)
    found: dict[str, list[float]] = {}
    for turn in range(TURNS):
        for count, side in ((FEW, few), (MANY, many)) if turn % 2 == 0 else ((MANY, many), (FEW, few)):
            for name, between in (("warm", 0), ("met", BETWEEN)):
                found.setdefault(f"{name}_{count}", []).append(side(between))
    figures = {name: median(values) for name, values in found.items()}
    figures["added"] = figures[f"met_{MANY}"] - figures[f"met_{FEW}"]
    figures["ratio"] = figures[f"met_{MANY}"] / figures[f"met_{FEW}"]
    return figures


def pick(bench: Bench, peer: Peer, row: Row, way: str) -> None:
    """The choice; and `whole`, the ratio of a request to one of 10,000 endpoints to one to 10, as far as it
    lies in the choice. (That 10,000 have more connections is not in it.)"""
    python = REPO / ".venv" / "bin" / "python"
    command = [str(python if python.exists() else sys.executable), "-m", "bench.pick", way]
    places = [str(REPO / place) for place in ("src", "tests", ".")]
    watch = bench.watch()
    done = subprocess.run(
        ["taskset", "-c", str(bench.settings.proxy_core), *command],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise check.CheckFailed(f"the shims are not built (tools/build --bench --shims): {last[:200]}")
    row.figures |= json.loads(done.stdout)
    row.disturbance["steal"] = watch.over(0).steal
    with bench.proxy(peer, "plain") as (running, _):
        target, clients = bench.target(running, peer), bench.settings.connections
        load.wrk(target, bench.settings.warm, clients)
        result, spent = bench.window(
            row, running, lambda: load.wrk(target, bench.settings.seconds / 3, clients)
        )
    row.figures["cpu_us"] = spent / result.answered
    row.figures["whole"] = 1 + row.figures["added"] / 1e3 / row.figures["cpu_us"]


PICK: dict[str, Scenario] = {name_of(way): partial(pick, way=way) for way in WAYS}


if __name__ == "__main__":
    json.dump(measure(sys.argv[1]), sys.stdout)
