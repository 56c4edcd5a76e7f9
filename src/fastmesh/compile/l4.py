"""VirtualService tcp and tls rules -> IR routes (compile). The same for gateways and for sidecars; what http
rules are for routes.py.

Knows neither listeners nor clusters: the caller says which gateway and port it compiles for, and turns a
destination into a cluster's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastmesh.compile.routes import SINGLE_WEIGHT, Resolve, bound_gateways, gateway_refs
from fastmesh.model.schema import Resource

if TYPE_CHECKING:
    from fastmesh.model import ir

    Kind = Literal["tcp", "tls"]


def l4_routes(
    vs: Resource, kind: Kind, gateway: str, port: int, resolve: Resolve
) -> list[tuple[list[str], ir.Route]]:
    """The routes for one gateway ("namespace/name" or "mesh") and port, in order, each with the names
    (sniHosts) that it is for: none of a tcp rule."""
    bound = bound_gateways(vs)
    out: list[tuple[list[str], ir.Route]] = []
    for i, rule in enumerate(vs.spec.get(kind, ())):
        dests: list[ir.Dest] | None = None
        for match in rule.get("match") or [{}]:
            gateways = gateway_refs(match["gateways"], vs.namespace) if match.get("gateways") else bound
            if gateway not in gateways or match.get("port", port) != port:
                continue
            if dests is None:
                dests = _dests(rule["route"], vs.namespace, port, resolve)
            route: ir.Route = {"name": f"{vs.name}.{vs.namespace}.{kind}[{i}]", "dests": dests}
            if match.get("destinationSubnets"):
                route["conds"] = [
                    {"on": "destination", "op": "exact", "networks": match["destinationSubnets"]}
                ]
            source: ir.Source = {}
            if match.get("sourceLabels"):
                source["labels"] = match["sourceLabels"]
            if "sourceNamespace" in match:
                source["namespace"] = match["sourceNamespace"]
            if source:
                route["source"] = source
            out.append((match.get("sniHosts", []), route))
    return out


def _dests(route: list[dict[str, Any]], namespace: str, port: int, resolve: Resolve) -> list[ir.Dest]:
    out: list[ir.Dest] = []
    for d in route:
        weight = d.get("weight", 0) if len(route) > 1 else SINGLE_WEIGHT
        if weight:
            out.append({"cluster": resolve(d["destination"], namespace, port), "weight": weight})
    return out


def takes_every_session(route: ir.Route) -> bool:
    return "conds" not in route and "source" not in route
