"""A valid object of each kind, and ways to spoil it."""

from __future__ import annotations

from typing import Any

from fastmesh.model.load import load_dicts
from fastmesh.model.schema import KINDS


def virtual_service() -> dict[str, Any]:
    return {
        "hosts": ["a.example"],
        "http": [{"match": [{"uri": {"prefix": "/"}}], "route": [{"destination": {"host": "b.example"}}]}],
    }


def destination_rule() -> dict[str, Any]:
    return {
        "host": "a.example",
        "trafficPolicy": {
            "loadBalancer": {},
            "connectionPool": {"tcp": {}, "http": {}},
            "tls": {"mode": "SIMPLE"},
        },
        "subsets": [{"name": "v1"}],
    }


def gateway() -> dict[str, Any]:
    return {
        "servers": [
            {
                "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
                "hosts": ["*"],
                "tls": {"mode": "SIMPLE", "serverCertificate": "c", "privateKey": "k"},
            }
        ]
    }


def service_entry() -> dict[str, Any]:
    return {
        "hosts": ["a.example"],
        "ports": [{"number": 80, "name": "http"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.0.0.1"}],
    }


def workload_entry() -> dict[str, Any]:
    return {"address": "10.0.0.1"}


def peer_authentication() -> dict[str, Any]:
    return {"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "STRICT"}}


VALID = {
    "VirtualService": virtual_service,
    "DestinationRule": destination_rule,
    "Gateway": gateway,
    "ServiceEntry": service_entry,
    "WorkloadEntry": workload_entry,
    "PeerAuthentication": peer_authentication,
}


def check(kind: str, spec: Any) -> list[str]:
    """Problems as "path: message"."""
    doc = {"apiVersion": KINDS[kind][0][0], "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    return [f"{p.path}: {p.message}" for p in load_dicts([doc]).problems]


def put(spec: Any, path: str, value: Any) -> None:
    """Set spec.http[0].fault and the like."""
    *parents, last = path.replace("[", ".[").split(".")
    for part in parents:
        spec = spec[int(part[1:-1])] if part.startswith("[") else spec[part]
    spec[int(last[1:-1]) if last.startswith("[") else last] = value
