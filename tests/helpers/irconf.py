"""Configs in their compiled form (model/ir.py) for tests of packing, routing and balancing."""

from __future__ import annotations

from typing import Any

from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack

Conf = dict[str, Any]


def cluster(name: str, *ports: int, weights: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    """A cluster with an endpoint of 127.0.0.1 for each port."""
    endpoints: list[dict[str, Any]] = [{"address": "127.0.0.1", "port": port} for port in ports]
    for endpoint, weight in zip(endpoints, weights, strict=False):
        endpoint["weight"] = weight
    return {"name": name, "endpoints": endpoints, **more}


def route(name: str = "r", *, to: str = "c", **more: Any) -> dict[str, Any]:
    """A route that forwards to one cluster unless `more` says otherwise."""
    made: dict[str, Any] = {"name": name, **more}
    if not {"dests", "redirect", "direct"} & more.keys():
        made["dests"] = [{"cluster": to, "weight": 100}]
    return made


def vhost(domains: list[str], *routes: dict[str, Any], name: str = "") -> dict[str, Any]:
    return {"name": name or domains[0], "domains": domains, "routes": list(routes)}


def config(*vhosts: dict[str, Any], clusters: list[dict[str, Any]] | None = None, **more: Any) -> Conf:
    """One outbound listener with these virtual hosts; a cluster "c" unless others are given."""
    return {
        "node_id": "test.default",
        "listeners": [
            {"name": "outbound", "kind": "outbound", "address": "127.0.0.1", "port": 15001, "table": "main"}
        ],
        "tables": [{"name": "main", "virtual_hosts": list(vhosts)}],
        "clusters": [cluster("c", 9080)] if clusters is None else clusters,
        "tls": [],
        **more,
    }


def packed(made: Conf, cells: CellMap | None = None) -> bytes:
    return pack(made, cells or CellMap())  # type: ignore[arg-type]
