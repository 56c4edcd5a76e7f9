"""LocalRateLimits -> routes of the inbound side of sidecars, as the control plane distributes them (compile).

Knows neither the application behind nor who is selected: labels travel along, and a sidecar takes what is for
it (model/wire: effective_limits), before the route that takes everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastmesh.compile.ratelimit import limit, limits_of
from fastmesh.compile.routes import match_of
from fastmesh.model.schema import Resource
from fastmesh.model.schema_limits import spiffe_id

if TYPE_CHECKING:
    from fastmesh.model import ir


def inbound_limits(limits: Iterable[Resource], namespace: str, root: str) -> list[dict[str, Any]]:
    """Those that workloads of a namespace have to choose from, in the order in which their rules count: of
    the namespace before those of the root namespace, such as select workloads before those that do not, the
    oldest first."""
    made = []
    for wanted in dict.fromkeys((namespace, root)):
        for selective in (True, False):
            for resource in limits:
                labels = resource.spec.get("selector", {}).get("matchLabels", {})
                if resource.namespace == wanted and bool(labels) == selective:
                    made.append({"labels": dict(labels), "routes": rule_routes(resource)})
    return made


DRY_RUN = "istio.io/dry-run"
TELL = "networking.fastmesh.io/name-denials"
TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))


def ir_policy(resource: Resource) -> ir.Policy:
    """An AuthorizationPolicy without whom it is for."""
    made: Any = {
        "name": resource.name,
        "namespace": resource.namespace,
        "action": resource.spec.get("action", "ALLOW"),
        "rules": resource.spec.get("rules", []),
    }
    for key, annotation in (("dry_run", DRY_RUN), ("tell", TELL)):
        if resource.annotations.get(annotation) in TRUE:
            made[key] = True
    policy: ir.Policy = made
    return policy


def inbound_policies(policies: Iterable[Resource], namespace: str, root: str) -> list[dict[str, Any]]:
    """The AuthorizationPolicies that workloads of a namespace have to choose from."""
    return [
        {"labels": dict(p.spec.get("selector", {}).get("matchLabels", {})), "policy": ir_policy(p)}
        for p in sorted(policies, key=lambda p: (p.namespace != root, p.namespace, p.name))
        if p.namespace in (namespace, root)
    ]


def rule_routes(resource: Resource) -> list[ir.Route]:
    """The routes of all rules of a resource, without where they go; the first that matches counts. A rule
    that is named keeps its buckets when others come before it."""
    routes: list[ir.Route] = []
    seen: dict[str, int] = {}
    for rule in resource.spec["rules"]:
        name = rule.get("name", "")
        seen[name] = seen.get(name, -1) + 1
        # no VirtualService has a name like that: a bucket belongs to one of the two
        owner = f"LocalRateLimit/{resource.namespace}/{resource.name}/{name}/{seen[name]}"
        limits: list[ir.Limit] = [
            {**limit(override["tokenBucket"], owner, "named"), "who": spiffe_id(principal)}
            for override in rule.get("overrides", ())
            for principal in override["identities"]
        ]
        limits += limits_of(rule, owner)
        for match in rule.get("match") or [{}]:
            route: Any = match_of(match)
            if limits:
                route["limits"] = limits
            title = ".".join(filter(None, (name, match.get("name"))))
            if title:
                route["name"] = title
            routes.append(route)
    return routes
