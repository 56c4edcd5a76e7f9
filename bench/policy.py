"""What traffic policy costs a request that it lets pass: everything on against plain forwarding, in turns.

Owns: the pair of configs that is compared. Must not know: what they say (peers/policy.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench import check, load, paired, procs
from bench.peers import Envoy, Fastmesh, Peer, policy
from bench.scenarios import Bench, Row, Scenario


def with_policy(peer: Peer) -> Peer:
    if isinstance(peer, Fastmesh):
        return policy.fastmesh(peer.executable)
    if isinstance(peer, Envoy):
        return policy.envoy()
    raise check.CheckFailed(f"{peer.name} has nothing like it")


def takes(running: procs.Running, peer: Peer, limited: bool) -> None:
    """Refuses unless the load's request takes the route with the policy, or does not."""
    answer = check.get(running.port, peer.path(), peer.host(), policy.HEADERS)
    if " 200" not in answer.status_line or (policy.LIMITED in answer.headers) != limited:
        raise check.CheckFailed(f"{'with' if limited else 'without'} policy: answered {answer}")


def _cost(bench: Bench, peer: Peer, row: Row, shape: str) -> None:
    settings = bench.settings
    with paired.both(bench, peer, with_policy(peer), shape) as runs:

        def side(running: procs.Running) -> paired.Side:
            target = replace(bench.target(running, peer), headers=policy.HEADERS)
            if shape == "plain":
                return paired.Side(running, lambda seconds: load.wrk(target, seconds, settings.connections))
            return paired.Side(
                running,
                lambda seconds: load.h2load(target, seconds, settings.h2_connections, settings.h2_streams),
            )

        if shape == "plain":
            for running, limited in zip(runs, (False, True), strict=True):
                takes(running, peer, limited)
        pairs = paired.cpu(bench, row, side(runs[0]), side(runs[1]), settings.turns, settings.seconds / 3)
    paired.told(row, pairs, "cpu_us", "cpu_us_policy")


POLICY: dict[str, Scenario] = {
    "policy": partial(_cost, shape="plain"),
    "policy-h2": partial(_cost, shape="h2-h1"),
}
