"""The floor: bench/floor/floor.c, a byte forwarder that parses nothing."""

from __future__ import annotations

from pathlib import Path

from bench import build
from bench.certs import SERVER_NAME
from bench.peers.base import Hop, Peer, Role, Site


class Floor(Peer):
    name = "floor"

    def find(self) -> Path | None:
        return build.tool("floor")

    def hint(self) -> str:
        return "the floor did not compile: apt-get install gcc libc6-dev libssl-dev"

    def version(self) -> str:
        return "C byte forwarder on epoll"

    def speaks(self, hop: Hop) -> bool:
        return hop.down is hop.up  # what it forwards it does not translate

    def command(self, hop: Hop, site: Site) -> list[str]:
        ports = [str(site.listen), str(site.upstream)]
        certs = site.certs
        if hop.role is Role.PLAIN:
            return [str(build.tool("floor")), *ports]
        server = ["server", str(certs.server_cert), str(certs.server_key)]
        client = ["client", str(certs.client_cert), str(certs.client_key), str(certs.ca), SERVER_NAME]
        mode = {Role.TLS: server, Role.INNER: [*server, str(certs.ca)], Role.OUTER: client}[hop.role]
        return [str(build.tool("floor-tls")), *ports, *mode]
