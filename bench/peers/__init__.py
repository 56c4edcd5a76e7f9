"""The proxies that are measured, each behind the same small interface (base.Peer)."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import CHAINS, Chain, Hop, Peer, Role, Service, Site, Version
from bench.peers.envoy import Envoy
from bench.peers.fastmesh import Fastmesh
from bench.peers.floor import Floor
from bench.peers.haproxy import Haproxy
from bench.peers.nghttpx import Nghttpx
from bench.peers.nginx import Nginx

__all__ = [
    "CHAINS",
    "DEFAULT",
    "NAMES",
    "Chain",
    "Envoy",
    "Fastmesh",
    "Hop",
    "Peer",
    "Role",
    "Service",
    "Site",
    "Version",
    "make",
]

NAMES = ("floor", "fastmesh", "haproxy", "nginx", "envoy", "nghttpx")
DEFAULT = NAMES[:5]  # of the rows that are HTTP/1.1 on every side


def make(name: str, fastmesh: Path | None = None) -> Peer:
    if name == "fastmesh":
        return Fastmesh(fastmesh)
    classes: dict[str, type[Peer]] = {
        "floor": Floor,
        "haproxy": Haproxy,
        "nginx": Nginx,
        "envoy": Envoy,
        "nghttpx": Nghttpx,
    }
    return classes[name]()
