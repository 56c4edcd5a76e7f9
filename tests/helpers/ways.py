"""The ways from a client to an application: directly, through an edge proxy, through two sidecars.

The same test runs on each of them; what fails on "direct" is the fault of the test or of the application.

    @ways.ALL                                  # or ways.PROXIED
    def test_something(way: Way) -> None: ...  # connects to way.port(service), asks for `service`

    @pytest.fixture(scope="module")
    def way(request, tmp_path_factory, apps) -> Iterator[Way]:
        with ways.opened(request.param, tmp_path_factory.mktemp("way"), [Upstream("reviews", [port])]) as way:
            yield way
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers import istio
from helpers.app import Existing
from helpers.certs import Authority
from helpers.mesh import EdgeProxy, Mesh, Proxy, Sidecar, running
from helpers.net import free_port, wait_for

ALL = pytest.mark.parametrize("way", ["direct", "edge", "sidecars"], indirect=True, scope="module")
PROXIED = pytest.mark.parametrize("way", ["edge", "sidecars"], indirect=True, scope="module")
EDGE = pytest.mark.parametrize("way", ["edge"], indirect=True, scope="module")
SIDECARS = pytest.mark.parametrize("way", ["sidecars"], indirect=True, scope="module")


@dataclass(frozen=True)
class Upstream:
    """A service and the ports of 127.0.0.1 where it runs."""

    service: str
    ports: Sequence[int]
    protocol: str = "HTTP"  # what is declared of it: HTTP, HTTP2 or GRPC
    ca: bytes = b""  # it speaks TLS, with a certificate of this authority: behind an edge only
    upgrade: bool = False  # h2UpgradePolicy, for one with TLS


@dataclass
class Way:
    kind: str
    upstreams: Sequence[Upstream]
    directory: Path
    plain: int = 0  # where clients connect; direct: to the upstreams themselves
    secure: int = 0  # with TLS; an edge only
    ca: bytes = b""  # of the certificate there
    near: Proxy | None = None  # the proxy that clients speak to
    far: dict[str, list[Sidecar]] = field(default_factory=dict)  # those beside the applications
    mesh: Mesh | None = None

    def port(self, service: str) -> int:
        if self.kind != "direct":
            return self.plain
        return next(u.ports[0] for u in self.upstreams if u.service == service)

    def context(self, *alpn: str) -> ssl.SSLContext:
        """For clients of the TLS port."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        context.set_alpn_protocols(list(alpn))
        return context

    def far_logged(self, service: str, match: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """A line in the access log of one of the sidecars beside the service."""
        return wait_for(
            lambda: next((e for s in self.far[service] for e in s.lines() if match(e)), {}),
            what=f"a line in a log of {service}",
        )

    @contextlib.contextmanager
    def another(self) -> Iterator[tuple[int, Proxy]]:
        """One more proxy beside `near`, for tests that end it, and its port."""
        if self.mesh is not None:
            made = self.mesh.sidecar(f"web{len(self.mesh.sidecars)}", app=Existing("web", 1))
            for service, callees in self.far.items():
                self.mesh.reaches(made, service, *callees)
            try:
                yield made.outbound, made
            finally:
                made.kill()
            return
        port = free_port()
        text = _text(self.directory, self.upstreams, port, free_port())
        edge = EdgeProxy(self.directory, text, name=f"edge-{port}")
        try:
            edge.start()
            yield port, edge
        finally:
            edge.kill()
            print(edge.process.report())


@contextlib.contextmanager
def opened(kind: str, directory: Path, upstreams: Sequence[Upstream]) -> Iterator[Way]:
    way = Way(kind, upstreams, directory)
    if kind == "direct":
        yield way
    elif kind == "edge":
        with _edge(way):
            yield way
    else:
        with running(directory) as mesh:
            _sidecars(way, mesh)
            yield way


@contextlib.contextmanager
def _edge(way: Way) -> Iterator[None]:
    names = [upstream.service for upstream in way.upstreams]
    authority = Authority("edges")
    authority.leaf(dns=names).write(way.directory, "edge")
    (way.directory / "upstreams.pem").write_bytes(b"".join(u.ca for u in way.upstreams))
    way.ca = authority.pem
    way.plain, way.secure = free_port(), free_port()
    edge = EdgeProxy(way.directory, _text(way.directory, way.upstreams, way.plain, way.secure))
    way.near = edge
    try:
        edge.start()
        yield
    finally:
        edge.kill()
        print(edge.process.report())


def _text(directory: Path, upstreams: Sequence[Upstream], plain: int, secure: int) -> str:
    documents = [istio.gateway(istio.http(plain), istio.https(secure, directory, "edge"))]
    for up in upstreams:
        to = f"- route: [{{destination: {{host: {up.service}.local}}}}]"
        documents.append(istio.routes(to, up.service, up.service))
        documents.append(istio.service(up.service, *up.ports, protocol=up.protocol, port="port"))
        if up.ca:
            upgrade = "UPGRADE" if up.upgrade else "DEFAULT"
            tls = f"mode: SIMPLE, caCertificates: {directory}/upstreams.pem, sni: {up.service}"
            policy = f"""
            loadBalancer: {{simple: ROUND_ROBIN}}
            connectionPool: {{http: {{h2UpgradePolicy: {upgrade}}}}}
            tls: {{{tls}, subjectAltNames: [{up.service}]}}
            """
            documents.append(istio.policy(up.service, policy))
    return istio.text(*documents)


def _sidecars(way: Way, mesh: Mesh) -> None:
    """One beside each port of each upstream, and that of the client; started together."""
    for upstream in way.upstreams:
        assert not upstream.ca, "an application beside a sidecar does not speak TLS"
        for port in upstream.ports:
            made = mesh.sidecar(
                upstream.service, "--app-protocol", upstream.protocol.lower(),
                app=Existing(upstream.service, port), ready=False,
            )  # fmt: skip
            way.far.setdefault(upstream.service, []).append(made)
    web = mesh.sidecar("web", app=Existing("web", 1), ready=False)
    for sidecar in mesh.sidecars:
        sidecar.wait_ready()
    for service, callees in way.far.items():
        mesh.reaches(web, service, *callees)
    way.mesh, way.near, way.plain = mesh, web, web.outbound
