"""This build against an earlier one (--before), in turns: has a request become dearer?

Owns: the shapes that are compared. Must not know: what changed.
"""

from __future__ import annotations

from functools import partial

from bench import check, load, paired
from bench.peers import Fastmesh, Peer
from bench.scenarios import Bench, Row, Scenario


def _change(bench: Bench, peer: Peer, row: Row, shape: str, *, multiplexed: bool) -> None:
    if not isinstance(peer, Fastmesh) or bench.before is None:
        raise check.CheckFailed("change measures fastmesh against another build of it: --before PATH")
    settings = bench.settings
    earlier = Fastmesh(bench.before)
    with paired.both(bench, earlier, peer, shape) as runs:

        def side(number: int) -> paired.Side:
            target = bench.target(runs[number], peer)
            if multiplexed:
                return paired.Side(
                    runs[number],
                    lambda seconds: load.h2load(
                        target, seconds, settings.h2_connections, settings.h2_streams
                    ),
                )
            return paired.Side(runs[number], lambda seconds: load.wrk(target, seconds, settings.connections))

        pairs = paired.cpu(bench, row, side(0), side(1), settings.turns, settings.seconds / 3)
    paired.told(row, pairs, "cpu_us_before", "cpu_us")


CHANGE: dict[str, Scenario] = {
    "change-h1": partial(_change, shape="plain", multiplexed=False),
    "change-h2-h1": partial(_change, shape="h2-h1", multiplexed=True),
    "change-h2-h2": partial(_change, shape="h2-h2", multiplexed=True),
    "change-pair": partial(_change, shape="pair", multiplexed=False),
}
