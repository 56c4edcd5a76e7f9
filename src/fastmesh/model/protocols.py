"""What a port speaks (model): Istio's names of protocols, and how a port's name says one. Used by the
schemas, by the compiler and by the command line."""

from __future__ import annotations

from typing import Any, Final

SERVED: Final = {
    "HTTP": "HTTP",
    "HTTPS": "HTTPS",
    "HTTP2": "HTTP2",
    "GRPC": "GRPC",
    "kubernetes.io/h2c": "HTTP2",
    "TCP": "TCP",
    "TLS": "TLS",
    "MONGO": "TCP",
    "MYSQL": "TCP",
    "REDIS": "TCP",
}
"""A name -> the protocol. Istio ignores the case of names; kubernetes.io/h2c is Kubernetes' appProtocol for
HTTP/2 without TLS. MongoDB, MySQL and Redis are TCP."""
LATER: Final = {
    "GRPC-WEB": "it is not turned into gRPC; HTTP passes it on as it is",
    "HTTP_PROXY": "",
    "UDP": "only TCP and what is built on it",
}
OPAQUE: Final = frozenset({"TCP", "TLS"})
"""Passed on as bytes. (Istio's filters for MongoDB, MySQL and Redis are not there: these are bytes, too.)"""
HTTP2: Final = frozenset({"HTTP2", "GRPC"})
"""Spoken over HTTP/2 from the first byte."""


def folded(name: str) -> str:
    """A name in the spelling of the tables above, whatever its case."""
    return name.lower() if "/" in name else name.upper()


def name_says(name: str) -> str:
    """The protocol that a port's name begins with (`<protocol>[-suffix]`): of SERVED or LATER; else ""."""
    upper = name.upper()
    if upper.startswith("GRPC-WEB"):
        return "GRPC-WEB"  # the one protocol with a dash; Istio takes it before all others, too
    first = upper.partition("-")[0]
    return SERVED.get(first, first if first in LATER else "")


def port_protocol(port: dict[str, Any]) -> str:
    """Of a declared port (normalised): its `protocol`, else what its name says; "" when neither tells."""
    return str(port.get("protocol") or name_says(port["name"]))
