"""fastmesh itself, as an edge proxy on one worker, its telemetry on; configured with Istio's resources.

Owns: fastmesh's command line and config as far as bench needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import Hop, Peer, Role, Site, Version, version_line, which, write_config
from bench.procs import free_port

REPO = Path(__file__).resolve().parents[2]

PLAIN_PORT = "port: {number: @LISTEN@, name: http, protocol: HTTP}"
TLS_PORT = """port: {number: @LISTEN@, name: https, protocol: HTTPS}
    tls:
      mode: @MODE@
      serverCertificate: @SERVER_CERT@
      privateKey: @SERVER_KEY@"""
RULE = """---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: backend}
spec:
  host: @SERVER_NAME@
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 100000}
      http: {http1MaxPendingRequests: 100000, http2MaxRequests: 100000}
"""
ENDPOINT = """  - address: 127.0.0.1
    ports: {@UP@: @UPSTREAM@}
"""
MUTUAL_OUT = """    tls:
      mode: MUTUAL
      clientCertificate: @CLIENT_CERT@
      privateKey: @CLIENT_KEY@
      caCertificates: @CA@
      sni: @SERVER_NAME@
      subjectAltNames: ["@SERVER_ID@"]
"""
CATCH_ALL = """---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all}
spec:
  hosts: ["*"]
  gateways: [bench]
  http:
  - route:
    - destination: {host: @SERVER_NAME@, port: {number: 80}}
    retries: {attempts: 0}
"""


@dataclass(frozen=True)
class Routes:
    """A routing table of so many hosts and routes a host; the load asks for the last route of one host."""

    hosts: int
    per_host: int

    @property
    def target_host(self) -> str:
        return f"h{self.hosts // 2}.bench.local"

    @property
    def target_path(self) -> str:
        return f"/r{self.per_host - 1}/x"

    def yaml(self) -> str:
        destination = "{host: @SERVER_NAME@, port: {number: 80}}"
        parts = []
        for host in range(self.hosts):
            parts.append(
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
                f"metadata: {{name: v{host}}}\nspec:\n"
                f"  hosts: [h{host}.bench.local]\n  gateways: [bench]\n  http:\n"
            )
            for route in range(self.per_host):
                parts.append(f"  - match: [{{uri: {{prefix: /r{route}/}}}}]\n")
                parts.append(f"    route: [{{destination: {destination}}}]\n")
        return "".join(parts)


@dataclass(frozen=True)
class Extra:
    """What a scenario has in the place of plain forwarding. A rule ends within its trafficPolicy."""

    rule: str = RULE
    routes: str = CATCH_ALL
    endpoints: str = ENDPOINT


class Fastmesh(Peer):
    name = "fastmesh"

    def __init__(
        self, executable: Path | None = None, routes: Routes | None = None, extra: Extra | None = None
    ) -> None:
        self.executable = executable
        self.routes = routes
        self.extra = extra or Extra()

    def find(self) -> Path | None:
        if self.executable is not None:
            return self.executable if self.executable.exists() else None
        built = REPO / ".venv" / "bin" / "fastmesh"
        return built if built.exists() else which("fastmesh")

    def hint(self) -> str:
        return "fastmesh is not built: make build (or --fastmesh PATH)"

    def host(self) -> str:
        return self.routes.target_host if self.routes else super().host()

    def path(self) -> str:
        return self.routes.target_path if self.routes else super().path()

    def version(self) -> str:
        return version_line([str(self.find()), "--version"])

    def command(self, hop: Hop, site: Site) -> list[str]:
        port = TLS_PORT if hop.tls_in else PLAIN_PORT
        config = write_config(
            "fastmesh.yaml.tmpl",
            site.directory / "fastmesh.yaml",
            site,
            DESTINATION_RULE=self.extra.rule + (MUTUAL_OUT if hop.role is Role.OUTER else ""),
            ENDPOINTS=self.extra.endpoints,
            ROUTES=self.routes.yaml() if self.routes else self.extra.routes,
            PORT=port + ("\n      caCertificates: @CA@" if hop.role is Role.INNER else ""),
            UP="http2" if hop.up is Version.H2 else "http",
            PROTOCOL="HTTP2" if hop.up is Version.H2 else "HTTP",
            MODE="MUTUAL" if hop.role is Role.INNER else "SIMPLE",
        )
        admin = f"127.0.0.1:{free_port()}"
        return [str(self.find()), "edge", "--config", str(config), "--concurrency", "1", "--admin", admin]
