"""From desired state to topics: `svc/<host>`, `ns/<namespace>`, `trust`.

Owns which topics there are and what each is compiled from. It must not know versions, sockets or storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmesh.compile.inbound import inbound_limits, inbound_policies
from fastmesh.compile.services import Workload, World, compile_services
from fastmesh.model import wire
from fastmesh.model.index import full_name
from fastmesh.model.load import load_dicts
from fastmesh.model.problems import Problem
from fastmesh.model.schema import Resource as Parsed
from fastmesh.model.validate import validate
from fastmesh_control.mesh import Key, State
from fastmesh_control.store import EndpointRow, Resource


class Compiler:
    """Compiles a State. Keeps what it parsed and indexed last: most changes touch endpoints only."""

    def __init__(self, trust_domain: str, trust: Callable[[], dict[str, Any]]) -> None:
        """`trust`: what of the trust topic changes (rotation.py)."""
        self._trust_domain = trust_domain
        self._trust = trust
        self._parsed: dict[Key, tuple[Resource, Parsed]] = {}
        self._world: tuple[State, World] | None = None

    def topics(self, state: State, only: set[tuple[str, str]] | None) -> dict[str, Any]:
        """Content by topic, None for a topic that is no more. `only`: (namespace, service) pairs whose
        endpoints changed; then just the topics that this alters, else all there are."""
        world = self._world_of(state)
        touched = None if only is None else [full_name(service, namespace) for namespace, service in only]
        fragments = compile_services(world, touched)
        found: dict[str, Any] = {f"svc/{host}": fragment for host, fragment in fragments.items()}
        if only is None:
            found[wire.TRUST] = {"trust_domain": self._trust_domain, **self._trust()}
        namespaces = {namespace for namespace, _ in state.services} | {p.namespace for p in world.policies}
        for namespace in namespaces:
            found[f"ns/{namespace}"] = policy_of(world, namespace)
        return found

    def problems(self, state: State) -> list[Problem]:
        """What is wrong between the objects of a state, warnings too."""
        world = self._world_of(state)
        return validate(world.index.by_key.values(), services=world.registry.keys())

    def _world_of(self, state: State) -> World:
        known = self._world
        if known is not None and known[0] is state:
            return known[1]
        # One address is one listener: of two rows that claim it (an agent came back under a new id while the
        # lease of the old one lasts) the later counts.
        rows = {(row.namespace, row.service, row.address, row.port): row for row in state.endpoints.values()}
        workloads = [workload(row) for row in rows.values()]
        if known is not None and known[0].resources is state.resources:
            world = known[1].with_registry(workloads, state.services)
        else:
            parsed = [self._parse(resource) for resource in state.resources.values()]
            self._parsed = {p.key: (state.resources[p.key], p) for p in parsed if p is not None}
            resources = [p for p in parsed if p is not None]
            world = World(resources, workloads, state.services, trust_domain=self._trust_domain)
        self._world = (state, world)
        return world

    def _parse(self, resource: Resource) -> Parsed | None:
        """A stored object as the model has it; None if this release refuses what an older one took."""
        held = self._parsed.get(resource.key)
        if held is not None and held[0] is resource:
            return held[1]
        loaded = load_dicts([resource.document], "")
        if not loaded.resources:
            return None
        # Istio lets the oldest of several objects that fit win, so their age has to be known.
        loaded.resources[0].created = f"{resource.created:020.6f}"
        return loaded.resources[0]


def workload(row: EndpointRow) -> Workload:
    name = f"{row.service}-{row.instance}"
    return Workload(
        name, row.service, row.namespace, row.address, row.port, row.app_port, row.identity, row.labels
    )


def policy_of(world: World, namespace: str) -> dict[str, Any]:
    """The PeerAuthentications that a workload of a namespace has to choose from, in Istio's precedence: those
    that select workloads (oldest first), the namespace's, the mesh's. wire.effective_mtls chooses. And the
    rate limits and the AuthorizationPolicies of its inbound side, of which wire.effective_limits and
    wire.effective_policies take those that are for it."""
    selective: list[dict[str, Any]] = []
    general: list[dict[str, Any]] = []
    for wanted in (namespace, world.root_namespace):
        found = None
        for p in world.policies:
            labels = p.spec.get("selector", {}).get("matchLabels", {})
            mode = p.spec.get("mtls", {}).get("mode", "UNSET")
            if p.namespace == wanted and labels and wanted == namespace:
                ports = {str(k): v.get("mode", "UNSET") for k, v in p.spec.get("portLevelMtls", {}).items()}
                selective.append({"labels": labels, "mode": mode, "ports": ports})
            elif p.namespace == wanted and not labels and found is None:
                found = {"mode": mode}
        if found is not None:
            general.append(found)
    return {
        "selective": selective,
        "general": general,
        "default": world.default_mtls,
        "limits": inbound_limits(world.rate_limits, namespace, world.root_namespace),
        "authorization": inbound_policies(world.authorizations, namespace, world.root_namespace),
    }
