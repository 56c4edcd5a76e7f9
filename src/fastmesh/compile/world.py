"""What the control plane compiles from (compile): all resources, and the services and live workloads of the
registry.

A World is read only: a change makes another one (an Index can be kept as long as the resources are the same).
Knows no IR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastmesh.model.delegates import expanded
from fastmesh.model.index import (
    DOMAIN,
    ROOT_NAMESPACE,
    Index,
    full_name,
    host_matches,
    labels_match,
    namespace_of,
    specificity,
)
from fastmesh.model.schema import Resource
from fastmesh.model.validate import MESH, bindings

DEFAULT_MTLS: Final = "STRICT"
DEFAULT_PORT: Final = 80
"""Of a service that no workload has named a port for yet."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A sidecar that is alive, with its application."""

    name: str
    service: str
    namespace: str
    address: str
    port: int
    """Its inbound listener."""
    app_port: int
    identity: str = ""
    """SPIFFE ID; empty: no sidecar, it is dialed in plain text."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return full_name(self.service, self.namespace)

    @property
    def all_labels(self) -> dict[str, str]:
        """What selectors see: `app` is the service's name unless said otherwise."""
        return {"app": self.service, **self.labels}


class World:
    """Resources and registry, with what lookups need."""

    def __init__(
        self,
        resources: Iterable[Resource] | Index,
        workloads: Iterable[Workload] = (),
        services: Mapping[tuple[str, str], Iterable[int]] | None = None,
        *,
        trust_domain: str = DOMAIN,
        default_mtls: str = DEFAULT_MTLS,
        root_namespace: str = ROOT_NAMESPACE,
    ) -> None:
        """`services`: (namespace, name) -> application ports, also of services that have no workload now."""
        self.index = resources if isinstance(resources, Index) else Index(resources)
        self.trust_domain = trust_domain
        self.default_mtls = default_mtls
        self.root_namespace = root_namespace
        self.workloads: dict[str, list[Workload]] = {}
        ports: dict[str, set[int]] = {
            full_name(name, ns): set(p) for (ns, name), p in (services or {}).items()
        }
        for w in workloads:
            self.workloads.setdefault(w.host, []).append(w)
            ports.setdefault(w.host, set()).add(w.app_port)
        for of_host in self.workloads.values():
            of_host.sort(key=lambda w: (w.address, w.port, w.name))
        self.registry: dict[str, list[int]] = {h: sorted(p) or [DEFAULT_PORT] for h, p in ports.items()}
        """Full name of each service of the registry -> its ports; the first is the default."""
        self._derived = _Derived(self.index)

    def with_registry(
        self, workloads: Iterable[Workload], services: Mapping[tuple[str, str], Iterable[int]] | None = None
    ) -> World:
        """The same resources over another state of the registry; what follows from resources alone is
        shared."""
        made = World(
            self.index,
            workloads,
            services,
            trust_domain=self.trust_domain,
            default_mtls=self.default_mtls,
            root_namespace=self.root_namespace,
        )
        made._derived = self._derived
        return made

    # -- VirtualServices of sidecars -------------------------------------------------------------------------

    @property
    def mesh_rules(self) -> dict[str, Resource]:
        """Host (full, or wildcard) -> the VirtualService that sidecars use for it."""
        return self._derived.mesh_rules

    @property
    def policies(self) -> list[Resource]:
        """PeerAuthentications, the oldest first."""
        return self._derived.policies

    @property
    def rate_limits(self) -> list[Resource]:
        """LocalRateLimits, the oldest first."""
        return self._derived.rate_limits

    @property
    def authorizations(self) -> list[Resource]:
        """AuthorizationPolicies."""
        return self._derived.authorizations

    def mesh_rule(self, host: str) -> Resource | None:
        """The VirtualService for a host: exact, else the longest wildcard."""
        rules = self.mesh_rules
        if host in rules:
            return rules[host]
        wild = [h for h in self._derived.wild_rules if host_matches(h, host)]
        return rules[max(wild, key=specificity)] if wild else None

    def dependents(self, hosts: set[str]) -> set[str]:
        """The other hosts that a change of these services alters: their routes lead here, or they select
        workloads."""
        namespaces = {namespace_of(h) for h in hosts}
        out = {h for h, selects in self._derived.selecting.items() if selects in namespaces}
        hosts = hosts | out
        for rule_host, leads_to in self._derived.leads_to.items():
            if hosts.isdisjoint(leads_to):
                continue
            out.add(rule_host)
            if "*" in rule_host:
                # a wildcard rule routes every service that it covers and that has no rule of its own
                vs = self.mesh_rules[rule_host]
                out.update(h for h in self.hosts() if host_matches(rule_host, h) and self.mesh_rule(h) is vs)
        return out

    # -- hosts -----------------------------------------------------------------------------------------------

    def hosts(self) -> list[str]:
        """Every host that has a topic: services of the registry, of ServiceEntries, and hosts that only a
        VirtualService knows."""
        return sorted({*self.registry, *self.index.services, *self.mesh_rules})

    def known(self, host: str) -> bool:
        return host in self.registry or host in self.index.services or host in self.mesh_rules

    def resolve(self, authority: str, namespace: str) -> str | None:
        """The host (name of the topic) that a client of this namespace means by a Host header; None: nothing
        is known by it."""
        name = strip_port(authority.lower()).rstrip(".")
        if not name:
            return None
        labels = name.split(".")
        tries = [name]
        if len(labels) == 1:
            tries.append(full_name(name, namespace))
        elif len(labels) == 2:
            tries.append(f"{name}.svc.{DOMAIN}")
        elif len(labels) == 3 and labels[2] == "svc":
            tries.append(f"{name}.{DOMAIN}")
        for host in tries:
            if self.known(host):
                return host
        by_address = self.addresses.get(name)
        if by_address is not None:
            return by_address
        wild = [h for h in {*self.index.services, *self.mesh_rules} if "*" in h and host_matches(h, name)]
        return max(wild, key=specificity) if wild else None

    @property
    def addresses(self) -> dict[str, str]:
        """Virtual IPs of ServiceEntries -> host."""
        return self._derived.addresses


class _Derived:
    """What follows from the resources alone."""

    def __init__(self, index: Index) -> None:
        self.mesh_rules: dict[str, Resource] = {}
        for root in bindings(index).get(MESH, ()):
            vs = expanded(index, root)
            for raw in vs.spec["hosts"]:
                if raw == "*":
                    continue  # for gateways only
                self.mesh_rules.setdefault(index.canonical(raw, vs.namespace), vs)
        self.wild_rules = [h for h in self.mesh_rules if "*" in h]
        self.leads_to: dict[str, set[str]] = {
            host: {
                index.canonical(destination["host"], vs.namespace)
                for rule in (*vs.spec["http"], *vs.spec.get("tcp", ()))
                for destination in destinations(rule)
            }
            for host, vs in self.mesh_rules.items()
        }
        self.selecting = {
            host: entry.namespace
            for host, s in index.services.items()
            for entry in s.entries
            if "workloadSelector" in entry.spec
        }
        self.addresses = {
            a: host
            for host, s in index.services.items()
            for e in s.entries
            for a in e.spec.get("addresses", ())
        }
        self.policies = sorted(index.kind("PeerAuthentication"), key=lambda p: (p.created or "~", p.name))
        self.authorizations = list(index.kind("AuthorizationPolicy"))
        self.rate_limits = sorted(index.kind("LocalRateLimit"), key=lambda p: (p.created or "~", p.name))


def destinations(http: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that a rule sends requests to, copies too."""
    yield from (d["destination"] for d in http.get("route", ()))
    yield from (m["destination"] for m in http.get("mirrors", ()))
    if "mirror" in http:
        yield http["mirror"]


def strip_port(authority: str) -> str:
    """ "host:80" and "[::1]:80" without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdigit() and ":" not in host else authority


def effective_mtls(world: World, namespace: str, labels: Mapping[str, str], port: int | None = None) -> str:
    """ "strict", "permissive" or "disable" for a workload's inbound side, by Istio's precedence: port,
    workload, namespace, mesh.

    UNSET inherits; the oldest of several policies that fit counts. Without any policy the mesh is strict."""
    own = dict(labels)

    def first(ns: str, selective: bool) -> Resource | None:
        for p in world.policies:
            wanted = p.spec.get("selector", {}).get("matchLabels", {})
            if p.namespace == ns and bool(wanted) == selective and labels_match(wanted, own):
                return p
        return None

    chain = [first(namespace, True), first(namespace, False), first(world.root_namespace, False)]
    modes: list[str] = []
    if chain[0] is not None and port is not None:
        modes.append(chain[0].spec.get("portLevelMtls", {}).get(str(port), {}).get("mode", "UNSET"))
    modes += [p.spec.get("mtls", {}).get("mode", "UNSET") for p in chain if p is not None]
    return next((m for m in modes if m != "UNSET"), world.default_mtls).lower()
