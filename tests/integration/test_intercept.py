"""`fastmesh sidecar --intercept`: hosts with rules that redirect, applications that know of no mesh."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmesh.commands.sidecar import catches_itself
from helpers import hellos, wait_for
from helpers.app import App
from helpers.mesh import Mesh, Sidecar
from helpers.netns import APP_USER, Host, Net, lacking
from helpers.tcp import data_of, was_reset

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "-")

OTHER_PORT, WEB_PORT, GREETS_PORT, ECHO_PORT, SHUT_PORT = 9999, 8000, 2525, 7777, 4444
GREETING = b"220 ready\r\n"
PEER_AUTH = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""
PORTS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ports}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  rules: [{{to: [{{operation: {{ports: ["{port}"]}}}}]}}]
"""
PASSTHROUGH = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ext}}
spec:
  hosts: [ext.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {ip}, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: ext}}
spec:
  host: ext.example
  trafficPolicy: {{loadBalancer: {{simple: PASSTHROUGH}}}}
"""


def serve(address: str, port: int, handler: Callable[[socket.socket], None]) -> None:
    """On the host that the caller is inside of; until it is gone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family)

    def one(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(20)
            handler(peer)

    def accept() -> None:
        while True:
            threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo(peer: socket.socket) -> None:
    while data := peer.recv(65536):
        peer.sendall(data)


def greet(peer: socket.socket) -> None:
    peer.sendall(GREETING)
    echo(peer)


def http_server(name: bytes) -> Callable[[socket.socket], None]:
    def handler(peer: socket.socket) -> None:
        got = b""
        while b"\r\n\r\n" not in got:
            got += peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    return handler


class Lan:
    """a: a client with a sidecar; b: the control plane, and reviews with its sidecar; c: not of the mesh."""

    def __init__(self, directory: Path, hosts: list[Host]) -> None:
        self.a, self.b, self.c, self.d = hosts
        for host in (self.a, self.d):
            host.redirect()
        self.mesh = mesh = Mesh(directory)
        mesh.options = (
            "--listen", f"0.0.0.0:{mesh.ports[0]}", "--publish", f"0.0.0.0:{mesh.ports[1]}",
            "--advertise", self.b.ip4,
        )  # fmt: skip
        self.b.redirect(*mesh.ports[:2])
        with self.c.inside():
            for address in (self.c.ip4, self.c.ip6):
                serve(address, WEB_PORT, http_server(b"outside"))
                serve(address, WEB_PORT + 1, http_server(b"elsewhere"))
                serve(address, GREETS_PORT, greet)
                serve(address, ECHO_PORT, echo)
        with self.b.inside():
            serve(self.b.ip4, OTHER_PORT, greet)
            mesh.start()
            self.app = App("reviews")
            bundle = mesh.bundle("web")
            self.reviews = mesh.sidecar("reviews", *self.options(self.b), app=self.app)
        with self.a.inside():
            self.web = mesh.sidecar("web", *self.options(self.a), bundle=bundle, app=App("web"))
            self.web.inbound, self.web.outbound = 15006, 15001
            wait_for(lambda: self.web.endpoints("reviews"), 20, "reviews in web")

    def options(self, host: Host) -> tuple[str, ...]:
        return (
            "--intercept", "--inbound", "0.0.0.0:15006", "--outbound", "127.0.0.1:15001",
            "--address", host.ip4,
        )  # fmt: skip

    def dial(self, address: str, port: int, host: Host | None = None) -> socket.socket:
        """As an application of a: it knows the address, and nothing of a mesh."""
        with (host or self.a).inside(user=APP_USER):
            made = socket.create_connection((address, port), 20)
        return made

    def reset(self, address: str, port: int, host: Host | None = None) -> bool:
        try:
            return was_reset(self.dial(address, port, host))
        except ConnectionResetError:
            return True

    def get(
        self, address: str, port: int, name: str, path: str = "/", host: Host | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(address, port, timeout=20)
        connection.sock = self.dial(address, port, host)
        try:
            connection.request("GET", path, headers={"Host": name})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stat(self, sidecar: Sidecar, name: str) -> float:
        with (self.a if sidecar is self.web else self.b).inside():
            return sidecar.stat(name)


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with Net(4) as hosts:
        made = None
        try:
            made = Lan(tmp_path_factory.mktemp("lan"), hosts)
            yield made
        finally:
            if made is not None:
                made.mesh.close()


def test_http_is_routed_by_its_host_and_secured(lan: Lan) -> None:
    before = lan.stat(lan.web, "cx_captured")
    status, _ = lan.get(lan.b.ip4, lan.app.port, "reviews", "/by-name")
    assert status == 200
    line = lan.reviews.logged(lambda e: e["path"] == "/by-name")
    assert line["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
    assert lan.stat(lan.web, "cx_captured") == before + 1
    # by the address of the instance: it is known whose that is, and nothing is dialled on suspicion
    guesses = lan.stat(lan.web, "tcp_guess")
    status, _ = lan.get(lan.b.ip4, lan.app.port, f"{lan.b.ip4}:{lan.app.port}", "/by-address")
    assert status == 200
    line = lan.reviews.logged(lambda e: e["path"] == "/by-address")
    assert line["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
    assert lan.stat(lan.web, "tcp_guess") == guesses


@pytest.mark.parametrize("version", ["ip4", "ip6"])
def test_what_is_not_of_the_mesh_is_reached_as_it_was_called(lan: Lan, version: str) -> None:
    address = getattr(lan.c, version)
    assert lan.get(address, WEB_PORT, "nobody.knows", f"/{version}") == (200, b"outside")
    assert lan.get(address, WEB_PORT + 1, "nobody.knows", f"/{version}") == (200, b"elsewhere")
    line = lan.web.logged(lambda e: e["path"] == f"/{version}")
    assert line["upstream_cluster"] == "PassthroughCluster"
    shown = f"[{address}]" if version == "ip6" else address
    assert line["upstream_host"] == f"{shown}:{WEB_PORT}"
    # a server that speaks first, a client that does, TLS that is nobody's
    hello = hellos.some()[0]
    for port, says, hears in (
        (GREETS_PORT, b"", GREETING),
        (ECHO_PORT, b"PING\r\n", b"PING\r\n"),
        (ECHO_PORT, hello, hello),
    ):
        with lan.dial(address, port) as client:
            client.sendall(says)
            got = b""
            while len(got) < len(hears):
                got += client.recv(65536)
            assert got == hears
            data = data_of(300_000)
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            got = b""
            while len(got) < len(data):
                got += client.recv(65536)
            sender.join()
            assert got == data


def test_who_speaks_first_is_remembered(lan: Lan) -> None:
    address = lan.c.ip4
    with lan.dial(address, GREETS_PORT) as client:
        assert client.recv(100) == GREETING
    lan.get(address, WEB_PORT, "some.host")
    before = lan.stat(lan.web, "tcp_guess")
    lan.get(address, WEB_PORT, "some.host")
    assert lan.stat(lan.web, "tcp_guess") == before
    with lan.dial(address, GREETS_PORT) as client:
        assert client.recv(100) == GREETING
    assert lan.stat(lan.web, "tcp_guess") == before + 1
    # a server that was taken for one whose clients speak first greets all the same
    with lan.dial(address, GREETS_PORT) as client:
        client.sendall(b"HELO\r\n")
        assert client.recv(100).startswith(GREETING[:3])
    with lan.dial(address, GREETS_PORT) as client:
        assert client.recv(100) == GREETING


def test_a_client_that_closes_its_side_and_says_nothing_gets_what_there_is(lan: Lan) -> None:
    with lan.dial(lan.c.ip4, GREETS_PORT) as client:
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(100):
            got += data
        assert got == GREETING


def test_an_address_where_nobody_is(lan: Lan) -> None:
    assert was_reset(lan.dial(lan.c.ip4, SHUT_PORT))
    line = lan.web.logged(lambda e: e.get("upstream_host") == f"{lan.c.ip4}:{SHUT_PORT}")
    assert line["response_flags"] == "UF" and line["upstream_cluster"] == "PassthroughCluster"
    assert lan.get(lan.c.ip4, SHUT_PORT, "gone.example")[0] == 503


def test_passthrough_of_a_destination_rule(lan: Lan) -> None:
    with lan.b.inside():
        lan.mesh.apply(PASSTHROUGH.format(ip=lan.c.ip4, port=WEB_PORT))
    assert lan.get(lan.c.ip4, WEB_PORT + 1, "ext.example") == (200, b"elsewhere")
    assert lan.get(lan.c.ip4, WEB_PORT, "ext.example") == (200, b"outside")
    # by Host alone, at the outbound port: nobody has said where to
    with lan.a.inside():
        assert lan.web.get("ext.example").status == 503
    line = lan.web.logged(lambda e: e["response_code"] == 503 and e["authority"] == "ext.example")
    assert line["response_flags"] == "UH"


def test_inbound_is_the_applications_port_alone(lan: Lan) -> None:
    refused = lan.stat(lan.reviews, "tls_plaintext_refused")
    with lan.dial(lan.b.ip4, lan.app.port, lan.c) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert lan.stat(lan.reviews, "tls_plaintext_refused") == refused + 1
    assert lan.reset(lan.b.ip4, OTHER_PORT, lan.c)
    assert lan.stat(lan.reviews, "cx_port_refused") == 1
    with lan.b.inside():
        lan.mesh.apply(PEER_AUTH.format(mode="PERMISSIVE"))
    assert lan.get(lan.b.ip4, lan.app.port, "reviews", host=lan.c)[0] == 200
    with lan.dial(lan.b.ip4, OTHER_PORT, lan.c) as client:
        assert client.recv(100) == GREETING
    # a policy that lets everybody in at the application's port says nothing of another one
    with lan.b.inside():
        lan.mesh.apply(PORTS.format(port=lan.app.port))
    assert lan.get(lan.b.ip4, lan.app.port, "reviews", host=lan.c)[0] == 200
    assert lan.reset(lan.b.ip4, OTHER_PORT, lan.c)
    with lan.b.inside():
        lan.mesh.apply(PORTS.format(port=OTHER_PORT))
    assert lan.get(lan.b.ip4, lan.app.port, "reviews", host=lan.c)[0] == 403
    with lan.dial(lan.b.ip4, OTHER_PORT, lan.c) as client:
        assert client.recv(100) == GREETING
    with lan.b.inside():
        lan.mesh.delete("AuthorizationPolicy", "ports")
        lan.mesh.apply(PEER_AUTH.format(mode="STRICT"))


def test_registry_only(lan: Lan) -> None:
    with lan.a.inside():
        lan.web.process.signal(signal.SIGTERM)
        lan.web.process.wait()
        lan.web.command += ["--outbound-traffic-policy", "REGISTRY_ONLY"]
        lan.web.start()
        wait_for(lambda: lan.web.endpoints("reviews"), 20, "reviews in web")
    assert lan.get(lan.b.ip4, lan.app.port, "reviews")[0] == 200
    assert lan.get(lan.c.ip4, WEB_PORT, "nobody.knows")[0] == 502
    line = lan.web.logged(lambda e: e["response_code"] == 502)
    assert line["route_name"] == "block_all"
    with lan.dial(lan.c.ip4, ECHO_PORT) as client:
        client.sendall(b"PING\r\n")
        assert was_reset(client)
    line = lan.web.logged(lambda e: e["response_flags"] == "NR")
    assert line["response_code_details"] == "route_not_found"


def test_a_proxy_whose_own_connections_would_come_back_to_it_is_told(lan: Lan) -> None:
    with lan.d.inside(user=APP_USER):
        assert catches_itself(15001)
    with lan.d.inside():
        assert not catches_itself(15001)
