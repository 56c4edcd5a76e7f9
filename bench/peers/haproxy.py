"""HAProxy (Debian package), one thread, upstream connections always reused."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import Hop, Peer, Role, Site, Version, version_line, which, write_config

TLS_IN = " ssl crt {pem}"
MUTUAL_IN = TLS_IN + " ca-file {ca} verify required"
MUTUAL_OUT = " ssl crt {pem} ca-file {ca} verify required sni str({name}) verifyhost {name}"


class Haproxy(Peer):
    name = "haproxy"

    def find(self) -> Path | None:
        return which("haproxy")

    def version(self) -> str:
        return version_line(["haproxy", "-v"])

    def command(self, hop: Hop, site: Site) -> list[str]:
        certs, bind, server = site.certs, "", ""
        if hop.role is Role.TLS:
            bind = TLS_IN.format(pem=certs.server_pem)
        elif hop.role is Role.INNER:
            bind = MUTUAL_IN.format(pem=certs.server_pem, ca=certs.ca)
        elif hop.role is Role.OUTER:
            server = MUTUAL_OUT.format(pem=certs.client_pem, ca=certs.ca, name=self.host())
        if hop.down is Version.H2:
            bind += " alpn h2" if hop.tls_in else " proto h2"
        if hop.up is Version.H2:
            server += " alpn h2" if hop.role is Role.OUTER else " proto h2"
        config = write_config(
            "haproxy.cfg.tmpl", site.directory / "haproxy.cfg", site, BIND_TLS=bind, SERVER_TLS=server
        )
        return [str(self.find()), "-db", "-f", str(config)]
