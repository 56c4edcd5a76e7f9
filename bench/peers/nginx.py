"""nginx (Debian package), one worker, upstream keep-alive with HTTP/1.1."""

from __future__ import annotations

import os
from pathlib import Path

from bench.peers.base import Hop, Peer, Role, Site, Version, version_line, which, write_config

TLS_IN = """
        ssl_certificate @SERVER_CERT@;
        ssl_certificate_key @SERVER_KEY@;"""
MUTUAL_IN = (
    TLS_IN
    + """
        ssl_client_certificate @CA@;
        ssl_verify_client on;"""
)
MUTUAL_OUT = """
            proxy_ssl_certificate @CLIENT_CERT@;
            proxy_ssl_certificate_key @CLIENT_KEY@;
            proxy_ssl_trusted_certificate @CA@;
            proxy_ssl_verify on;
            proxy_ssl_name @SERVER_NAME@;
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"""


class Nginx(Peer):
    name = "nginx"

    def find(self) -> Path | None:
        return which("nginx")

    def version(self) -> str:
        return version_line([str(self.find()), "-v"])

    def speaks(self, hop: Hop) -> bool:
        return hop.up is Version.H1  # until 1.29 its upstreams speak HTTP/1 only

    def command(self, hop: Hop, site: Site) -> list[str]:
        server = {Role.TLS: TLS_IN, Role.INNER: MUTUAL_IN}.get(hop.role, "")
        config = write_config(
            "nginx.conf.tmpl",
            site.directory / "nginx.conf",
            site,
            USER="user root;" if os.geteuid() == 0 else "",  # its files are in a directory of ours
            LISTEN_OPTIONS=(" ssl" if server else "") + (" http2" if hop.down is Version.H2 else ""),
            SCHEME="https" if hop.role is Role.OUTER else "http",
            SERVER_TLS=server,
            UPSTREAM_TLS=MUTUAL_OUT if hop.role is Role.OUTER else "",
        )
        return [str(self.find()), "-p", str(site.directory), "-c", str(config), "-e", "stderr"]
