"""Resources by what they are asked for (model): services and their ports, the DestinationRule of a host,
names made full.

Knows Istio's rules of lookup, and no IR. Built once from a list of resources; read only after that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from fastmesh.model.protocols import port_protocol
from fastmesh.model.schema import Key, Resource

DOMAIN: Final = "cluster.local"
"""The suffix of services in the registry: NAME.NAMESPACE.svc.DOMAIN, as in Istio."""
ROOT_NAMESPACE: Final = "istio-system"
"""Rules in this namespace are mesh-wide, as in Istio."""

POLICY_BLOCKS: Final = (
    "loadBalancer",
    "connectionPool",
    "outlierDetection",
    "healthChecks",
    "tls",
    "retryBudget",
)


def full_name(host: str, namespace: str) -> str:
    """Istio's rule: a name without a dot is a service of the namespace that the rule stands in. Lower
    case."""
    host = host.lower()
    return host if "." in host or "*" in host or ":" in host else f"{host}.{namespace}.svc.{DOMAIN}"


def host_matches(pattern: str, host: str) -> bool:
    """ "*.suffix" covers deeper names (and deeper wildcards), not the suffix itself; "*" covers all."""
    if pattern == "*" or pattern == host:
        return True
    return pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:]


def specificity(pattern: str) -> tuple[int, int]:
    """To sort by: exact before the longest wildcard."""
    return (0 if "*" in pattern else 1, len(pattern))


@dataclass(slots=True)
class Rule:
    """All DestinationRules of one host: Istio merges those of one host; the first gives the top-level
    policy."""

    host: str
    resources: list[Resource] = field(default_factory=list)

    def top(self) -> tuple[Resource | None, dict[str, Any]]:
        for r in self.resources:
            if r.spec.get("trafficPolicy"):
                return r, r.spec["trafficPolicy"]
        return (self.resources[0] if self.resources else None), {}

    def subset(self, name: str) -> tuple[Resource, int] | None:
        for r in self.resources:
            for i, s in enumerate(r.spec.get("subsets", ())):
                if s["name"] == name:
                    return r, i
        return None

    def subset_names(self) -> list[str]:
        return [s["name"] for r in self.resources for s in r.spec.get("subsets", ())]


@dataclass(frozen=True, slots=True)
class ServicePort:
    number: int
    name: str
    protocol: str
    """See protocols.py; "" when nothing says it."""
    target: int


@dataclass(slots=True)
class Service:
    """A host that ServiceEntries define."""

    host: str
    namespace: str
    entries: list[Resource] = field(default_factory=list)
    ports: dict[int, ServicePort] = field(default_factory=dict)


class Index:
    """All resources of one config, for lookup."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.by_key: dict[Key, Resource] = {}
        self.by_kind: dict[str, list[Resource]] = {}
        for r in resources:
            if r.key not in self.by_key:
                self.by_key[r.key] = r
                self.by_kind.setdefault(r.kind, []).append(r)
        self.services: dict[str, Service] = {}
        for entry in self.kind("ServiceEntry"):
            self._add_service(entry)
        self._wild_services = sorted((h for h in self.services if "*" in h), key=specificity, reverse=True)
        self.rules: dict[str, Rule] = {}
        for r in self.kind("DestinationRule"):
            host = self.canonical(r.spec["host"], r.namespace)
            self.rules.setdefault(host, Rule(host)).resources.append(r)
        for rule in self.rules.values():
            rule.resources.sort(key=lambda x: self._rank(x, rule.host))
        self._wild_rules = sorted((h for h in self.rules if "*" in h), key=specificity, reverse=True)

    def kind(self, kind: str) -> list[Resource]:
        return self.by_kind.get(kind, [])

    def canonical(self, host: str, namespace: str) -> str:
        """The full name of a host in a rule; a ServiceEntry may itself have a name without a dot."""
        lower = host.lower()
        return lower if lower in self.services else full_name(lower, namespace)

    def service(self, host: str) -> Service | None:
        """By exact host, else by the longest wildcard."""
        found = self.services.get(host)
        if found is None:
            found = next((self.services[w] for w in self._wild_services if host_matches(w, host)), None)
        return found

    def rule(self, host: str) -> Rule | None:
        """The DestinationRules for a (full) host: exact, else the longest wildcard."""
        found = self.rules.get(host)
        if found is None:
            found = next((self.rules[w] for w in self._wild_rules if host_matches(w, host)), None)
        return found

    def _rank(self, r: Resource, host: str) -> tuple[int, str]:
        """The service's namespace first, then the root namespace, then the others."""
        service = self.services.get(host)
        home = service.namespace if service is not None else namespace_of(host)
        return (0 if r.namespace == home else 1 if r.namespace == ROOT_NAMESPACE else 2, "")

    def _add_service(self, entry: Resource) -> None:
        for raw in entry.spec["hosts"]:
            host = raw.lower()
            service = self.services.setdefault(host, Service(host, entry.namespace))
            service.entries.append(entry)
            for p in entry.spec["ports"]:
                port = ServicePort(p["number"], p["name"], port_protocol(p), p.get("targetPort", p["number"]))
                service.ports.setdefault(port.number, port)


def namespace_of(host: str) -> str:
    """The namespace in a registry name (reviews.default.svc.cluster.local), else ""."""
    parts = host.split(".")
    return parts[1] if len(parts) > 2 and parts[2] == "svc" else ""


def labels_match(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in wanted.items())


def effective_policy(rule: Rule | None, subset: str, port: int) -> dict[str, Any]:
    """loadBalancer, connectionPool and tls of a destination, by Istio's rules: a subset's block replaces the
    top level's; settings of the port replace all blocks of their level and inherit nothing."""
    if rule is None:
        return {}
    merged = _overlay({}, rule.top()[1], port)
    found = rule.subset(subset) if subset else None
    if found is not None:
        merged = _overlay(merged, found[0].spec["subsets"][found[1]].get("trafficPolicy", {}), port)
    return merged


def _overlay(base: dict[str, Any], policy: dict[str, Any], port: int) -> dict[str, Any]:
    for own in policy.get("portLevelSettings", ()):
        if own["port"]["number"] == port:
            kept = {"retryBudget": policy["retryBudget"]} if "retryBudget" in policy else {}
            return {**kept, **{k: own[k] for k in POLICY_BLOCKS if k in own}}
    return {**base, **{k: policy[k] for k in POLICY_BLOCKS if k in policy}}


def tls_blocks(rule: Resource) -> list[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every tls block of a DestinationRule, with its path."""
    return policy_blocks(rule, "tls")


def policy_blocks(rule: Resource, name: str) -> list[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every block of this name in a DestinationRule, with its path."""
    places: list[tuple[tuple[str | int, ...], dict[str, Any]]] = [
        (("spec", "trafficPolicy"), rule.spec.get("trafficPolicy", {}))
    ]
    for i, s in enumerate(rule.spec.get("subsets", ())):
        places.append((("spec", "subsets", i, "trafficPolicy"), s.get("trafficPolicy", {})))
    out = []
    for path, policy in places:
        if name in policy:
            out.append(((*path, name), policy[name]))
        for i, own in enumerate(policy.get("portLevelSettings", ())):
            if name in own:
                out.append(((*path, "portLevelSettings", i, name), own[name]))
    return out
