"""TCP through two sidecars and a real control plane: mTLS between them, routes, services that come and go."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers.mesh import Mesh, Sidecar, running
from helpers.tcp import CHUNK, Sending, data_of, echo, named, read_all, was_reset
from helpers.worker import Peer, Upstream


class Tap:
    """Between two sidecars: keeps what it passes on."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.seen = bytearray()
        self.up = Upstream(self.run)
        self.port = self.up.port

    def run(self, peer: Peer) -> None:
        with socket.create_connection(("127.0.0.1", self.to), 20) as other:

            def carry(a: socket.socket, b: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := a.recv(CHUNK):
                        self.seen += data
                        b.sendall(data)
                    b.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=carry, args=(other, peer.sock), daemon=True)
            back.start()
            carry(peer.sock, other)
            back.join(30)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running(tmp_path) as made:
        yield made


def dial(port: int) -> Peer:
    peer = Peer(socket.create_connection(("127.0.0.1", port), 20))
    peer.sock.settimeout(60)
    return peer


def reset(port: int) -> bool:
    try:
        return was_reset(dial(port).sock)
    except ConnectionResetError:
        return True


def db(mesh: Mesh, app: Any, *options: str, version: str = "", service: str = "db") -> Sidecar:
    return mesh.sidecar(service, "--app-protocol", "tcp", *options, version=version, app=app)


def both_ways(port: int, n: int) -> None:
    data = data_of(n)
    client = dial(port)
    sending = Sending(client.sock, data)
    assert read_all(client.sock) == data
    sending.join(60)


def test_a_service_by_a_local_port(mesh: Mesh) -> None:
    local = free_port()
    server = db(mesh, Upstream(echo))
    caller = mesh.sidecar("web", "--outbound-tcp", f"{local}=db")
    mesh.reaches(caller, "db", server)
    both_ways(local, 20_000_000)
    line = caller.logged(lambda e: e["bytes_sent"] == 20_000_000)
    assert line["response_flags"] == "-" and line["upstream_host"] == f"127.0.0.1:{server.inbound}"
    line = server.logged(lambda e: e["bytes_sent"] == 20_000_000)
    assert line["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
    found = re.findall(r"^istio_tcp_received_bytes_total\{(.*)\} (\S+)$", server.view("/metrics")[1], re.M)
    assert len(found) == 1 and float(found[0][1]) == 20_000_000
    for label in (
        'reporter="destination"',
        'source_workload="web"',
        'connection_security_policy="mutual_tls"',
        'destination_service="db.default.svc.cluster.local"',
        'request_protocol="tcp"',
    ):
        assert label in found[0][0]
    assert server.stat("tls_accept") >= 1 and server.stat("tls_accept_fail") == 0
    # HTTP is not for it
    assert caller.get("db").status == 404
    # whoever has no certificate of the mesh is refused
    plain = dial(server.inbound)
    plain.send(b"hello")
    assert plain.rest() == b""
    assert server.stat("tls_plaintext_refused") == 1


def test_server_first_and_half_closed_over_mtls(mesh: Mesh) -> None:
    local = free_port()

    def talk(peer: Peer) -> None:
        peer.send(b"220 ready\r\n")
        said = peer.rest()
        peer.send(struct.pack(">Q", len(said)) + data_of(3_000_000))

    server = db(mesh, Upstream(talk))
    caller = mesh.sidecar("web", "--outbound-tcp", f"127.0.0.1:{local}=db.default")
    mesh.reaches(caller, "db", server)
    client = dial(local)
    assert client.until(b"\r\n") == b"220 ready\r\n"
    client.send(bytes(5_000_000))
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == struct.pack(">Q", 5_000_000) + data_of(3_000_000)
    for proxy in (caller, server):
        assert proxy.logged(lambda e: e["bytes_received"] == 5_000_000)["response_flags"] == "-"


def test_what_passes_the_hop_is_tls(mesh: Mesh) -> None:
    local = free_port()
    server = db(mesh, Upstream(echo))
    tap = Tap(server.inbound)
    caller = mesh.sidecar("web", "--outbound-tcp", f"{local}=pg.local:5432")
    mesh.apply(
        f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: pg}}
spec:
  hosts: [pg.local]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {tap.port}}}, serviceAccount: db,
               labels: {{security.istio.io/tlsMode: istio}}}}]
"""
    )
    wait_for(lambda: caller.endpoints("pg") == {tap.port}, what="the tap's endpoint")
    secret = b"attack at dawn, and tell nobody of it"
    client = dial(local)
    client.send(secret * 100)
    assert client.exactly(len(secret) * 100) == secret * 100
    client.close()
    assert bytes(tap.seen[:1]) == b"\x16" and secret not in tap.seen and len(tap.seen) > len(secret) * 200
    tap.up.close()


def test_routes_subsets_and_services_that_come_and_go(mesh: Mesh) -> None:
    local, other = free_port(), free_port()
    caller = mesh.sidecar("web", "--outbound-tcp", f"{local}=db", "--outbound-tcp", f"{other}=nobody")
    assert reset(local) and reset(other)
    caller.logged(lambda e: e["response_flags"] == "NR")
    one, two = db(mesh, named(b"one"), version="v1"), db(mesh, named(b"two"), version="v2")
    mesh.reaches(caller, "db", one, two)
    assert {dial(local).rest() for _ in range(20)} == {b"one", b"two"}
    mesh.apply(
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db}
spec:
  host: db
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
  - match: [{sourceLabels: {app: other}}]
    route: [{destination: {host: db, subset: v1}}]
  - route: [{destination: {host: db, subset: v2}}]
"""
    )
    assert {dial(local).rest() for _ in range(10)} == {b"two"}
    mesh.delete("VirtualService", "db")
    assert {dial(local).rest() for _ in range(20)} == {b"one", b"two"}
    # all of them leave
    for sidecar in (one, two):
        sidecar.process.signal(15)
        sidecar.process.wait()
    mesh.reaches(caller, "db")
    assert reset(local)
    assert caller.logged(lambda e: e["response_flags"] in ("UH", "UF"))


def test_http_beside_it_goes_on_and_neither_is_taken_for_the_other(mesh: Mesh) -> None:
    local = free_port()
    server = db(mesh, Upstream(echo))
    web = mesh.sidecar("shop")
    caller = mesh.sidecar("web", "--outbound-tcp", f"{local}=db", "--outbound-tcp", f"{free_port()}=shop")
    mesh.reaches(caller, "db", server)
    mesh.reaches(caller, "shop", web)
    assert caller.get("shop").status == 200
    both_ways(local, 100_000)
    assert reset(int(caller.command[caller.command.index("--outbound-tcp") + 3].partition("=")[0]))
    caller.logged(lambda e: e["response_flags"] == "NR")
    assert caller.get("shop").status == 200
