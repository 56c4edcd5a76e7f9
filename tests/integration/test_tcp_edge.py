"""TCP through a real edge: Gateways with protocol TCP and TLS, tcp and tls rules, what is shown of it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, istio, wait_for
from helpers.certs import Authority
from helpers.mesh import EdgeProxy
from helpers.tcp import Sending, data_of, echo, named, read_all
from helpers.worker import Peer, Upstream


def rules(kind: str, text: str, *hosts: str, name: str = "vs") -> str:
    body = textwrap.dedent(text).strip("\n")
    return istio.document(
        "VirtualService", name, f"hosts: [{', '.join(map(repr, hosts))}]\ngateways: [gw]\n{kind}:\n{body}"
    )


def dial(port: int) -> Peer:
    return Peer(socket.create_connection(("127.0.0.1", port), 20))


@contextlib.contextmanager
def edge(directory: Path, text: str) -> Iterator[EdgeProxy]:
    made = EdgeProxy(directory, text)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        print(made.process.report())


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    made = Authority("servers")
    made.leaf(dns=["one.example", "*.two.example"]).write(tmp_path, "leaf")
    (tmp_path / "ca.pem").write_bytes(made.pem)
    return made


def client_context(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "ca.pem"))


def tls_echo(directory: Path, name: bytes) -> Upstream:
    """Ends TLS by itself; says its name, then gives back what it gets."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")

    def serve(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as tls:
            tls.sendall(name)
            while data := tls.recv(65536):
                tls.sendall(data)

    return Upstream(serve)


def test_tcp_by_port_and_weight_reload_and_what_is_told(tmp_path: Path) -> None:
    one, two = Upstream(echo), named(b"two")
    ports = free_port(), free_port()
    text = istio.text(
        istio.gateway(*(istio.server(p, f"db{i}", "TCP", "*", "") for i, p in enumerate(ports))),
        rules(
            "tcp",
            f"""
            - match: [{{port: {ports[0]}, destinationSubnets: [127.0.0.0/8]}}]
              route: [{{destination: {{host: one.local}}}}]
            - match: [{{port: {ports[1]}}}]
              route:
              - {{destination: {{host: two.local}}, weight: 1}}
              - {{destination: {{host: one.local}}, weight: 0}}
            """,
            "*",
        ),
        istio.service("one", one.port, protocol="TCP", port="tcp"),
        istio.service("two", two.port, protocol="MySQL", port="tcp"),
        istio.document(
            "DestinationRule",
            "one",
            "host: one.local\ntrafficPolicy: {connectionPool: {tcp: {idleTimeout: 10s, maxConnections: 7}}}",
        ),
    )
    with edge(tmp_path, text) as proxy, contextlib.closing(one), contextlib.closing(two):
        data = data_of(3_000_000)
        client = dial(ports[0])
        Sending(client.sock, data)
        assert read_all(client.sock) == data
        assert dial(ports[1]).rest() == b"two"
        held = dial(ports[0])
        held.send(b"before")
        assert held.exactly(6) == b"before"
        # another config, with a new port besides: a session goes on all the same
        more = free_port()
        proxy.reload(text.replace("servers:\n", "servers:\n" + textwrap.indent(
            istio.server(more, "db2", "TCP", "*", ""), "  ")))  # fmt: skip
        held.send(b"after")
        assert held.exactly(5) == b"after"
        held.close()
        line = proxy.logged(lambda e: e["bytes_received"] == len(data), "the large session")
        assert line["protocol"] is None and line["method"] is None and line["response_flags"] == "-"
        assert (
            line["upstream_cluster"] == "outbound|80||one.local" and line["route_name"] == "vs.default.tcp[0]"
        )
        assert line["bytes_sent"] == len(data) and line["upstream_host"] == f"127.0.0.1:{one.port}"
        proxy.logged(lambda e: e["bytes_received"] == 11, "the held session")
        metrics = proxy.view("/metrics")[1]
        found = re.findall(r"^(istio_tcp_\w+)\{(.*)\} (\S+)$", metrics, re.M)
        of_one = {name: (labels, float(v)) for name, labels, v in found if 'service="one.local"' in labels}
        assert {name: value for name, (_, value) in of_one.items()} == {
            "istio_tcp_connections_opened_total": 2,
            "istio_tcp_connections_closed_total": 2,
            "istio_tcp_sent_bytes_total": len(data) + 11,
            "istio_tcp_received_bytes_total": len(data) + 11,
        }
        labels = of_one["istio_tcp_sent_bytes_total"][0]
        assert (
            'request_protocol="tcp"' in labels
            and "response_code" not in labels
            and 'reporter="source"' in labels
        )
        assert "istio_requests_total{" not in metrics
        dump = proxy.view("/config_dump")[1]
        assert '"tcp"' in dump and "127.0.0.0/8" in dump
        status, answer = proxy.view(f"/explain?url=http://x:{ports[0]}/&port={ports[0]}")
        assert status == 400 and "carries TCP" in answer, (status, answer)


def test_tls_is_ended_for_tcp_and_begun_for_an_upstream(tmp_path: Path, ca: Authority) -> None:
    one, two = tls_echo(tmp_path, b"one"), Upstream(echo)
    ports = free_port(), free_port()
    files = f"mode: SIMPLE, serverCertificate: {tmp_path}/leaf.pem, privateKey: {tmp_path}/leaf.key"
    text = istio.text(
        istio.gateway(
            istio.server(ports[0], "plain", "TCP", "*", ""),
            istio.server(ports[1], "tls", "TLS", "*", f"{{{files}}}"),
        ),
        rules(
            "tcp",
            f"""
            - match: [{{port: {ports[0]}}}]
              route: [{{destination: {{host: one.local}}}}]
            - route: [{{destination: {{host: two.local}}}}]
            """,
            "*",
        ),
        istio.service("one", one.port, protocol="TCP", port="tcp"),
        istio.service("two", two.port, protocol="TCP", port="tcp"),
        istio.document(
            "DestinationRule",
            "one",
            "host: one.local\ntrafficPolicy: {tls: {mode: SIMPLE, sni: one.example, "
            f"caCertificates: {tmp_path}/ca.pem}}}}",
        ),
    )
    with edge(tmp_path, text) as proxy, contextlib.closing(one), contextlib.closing(two):
        client = dial(ports[0])
        assert client.exactly(3) == b"one"
        client.send(b"plain here, TLS there")
        assert client.exactly(21) == b"plain here, TLS there"
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        with client_context(tmp_path).wrap_socket(dial(ports[1]).sock, server_hostname="one.example") as tls:
            data = data_of(2_000_000)
            got = bytearray()
            tls.settimeout(30)
            for at in range(0, len(data), 50_000):
                tls.sendall(data[at : at + 50_000])
                while len(got) < at + 50_000:
                    got += tls.recv(65536)
            assert bytes(got) == data
        wait_for(lambda: proxy.stat("tcp_done") == 2)
        assert proxy.stat("tls_connect") == 1 and proxy.stat("tls_accept") == 1
        # who does not speak TLS is not served
        plain = dial(ports[1])
        plain.send(b"hello?")
        assert plain.rest() == b""
        assert proxy.stat("tls_plaintext_refused") == 1


def test_passthrough_by_name(tmp_path: Path, ca: Authority) -> None:
    names = ("one", "two", "rest")
    upstreams = {name: tls_echo(tmp_path, name.encode()) for name in names}
    port = free_port()
    text = istio.text(
        istio.gateway(istio.server(port, "tls", "TLS", "*", "{mode: PASSTHROUGH}")),
        rules(
            "tls",
            """
            - match: [{sniHosts: [one.example]}]
              route: [{destination: {host: one.local}}]
            - match: [{sniHosts: ["*.two.example"]}]
              route: [{destination: {host: two.local}}]
            """,
            "one.example", "*.two.example",
        ),
        *(istio.service(name, u.port, protocol="TLS", port="tls") for name, u in upstreams.items()),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for upstream in upstreams.values():
            stack.callback(upstream.close)
        proxy = stack.enter_context(edge(tmp_path, text))
        context = client_context(tmp_path)

        def ask(name: str | None, want: bytes) -> None:
            context.check_hostname = name is not None
            with context.wrap_socket(dial(port).sock, server_hostname=name) as tls:
                assert tls.recv(100) == want
                tls.sendall(b"x" * 100_000)
                left = 100_000
                while left:
                    left -= len(tls.recv(65536))

        ask("one.example", b"one")
        ask("ONE.example", b"one")
        ask("a.two.example", b"two")
        line = proxy.logged(lambda e: e["requested_server_name"] == "a.two.example", "by its name")
        assert line["upstream_cluster"] == "outbound|80||two.local"
        # what has no route: another name, none, no TLS at all, half a hello
        for name in ("three.example", None):
            with pytest.raises(OSError):
                ask(name, b"")
        assert proxy.stat("tcp_no_route") == 2
        for sent in (b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n", b"\x16\x03\x01\x40\x01"):
            peer = dial(port)
            peer.send(sent)
            assert peer.rest() == b""
        assert proxy.stat("tcp_hello_bad") == 2
        # a rule for the rest
        proxy.reload(with_rest(text))
        ask(None, b"rest")
        ask("one.example", b"one")


def with_rest(text: str) -> str:
    rest = "tls:\n  - match: [{sniHosts: ['*']}]\n    route: [{destination: {host: rest.local}}]\n"
    assert "\n  tls:\n" in text
    head, tail = text.split("\n  tls:\n  - match", 1)
    return (
        head.replace("hosts: ['one.example', '*.two.example']", "hosts: ['*']")
        + "\n  "
        + rest
        + "  - match"
        + tail
    )


def test_a_hello_in_pieces(tmp_path: Path, ca: Authority) -> None:
    """Byte by byte, so that every length of it is looked at."""
    upstream = tls_echo(tmp_path, b"one")
    port = free_port()
    text = istio.text(
        istio.gateway(istio.server(port, "tls", "HTTPS", "*", "{mode: PASSTHROUGH}")),
        rules(
            "tls",
            "- match: [{sniHosts: [one.example]}]\n  route: [{destination: {host: one.local}}]",
            "one.example",
        ),
        istio.service("one", upstream.port, protocol="HTTPS", port="https"),
    )
    with edge(tmp_path, text), contextlib.closing(upstream):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context(tmp_path).wrap_bio(incoming, outgoing, server_hostname="one.example")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client = dial(port)
        for byte in outgoing.read():
            client.send(bytes([byte]))

        def step(call: Any) -> Any:
            while True:
                try:
                    return call()
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        client.send(outgoing.read())
                    incoming.write(client.sock.recv(65536))

        step(tls.do_handshake)
        assert step(lambda: tls.read(100)) == b"one"


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    port = free_port()
    proxy = EdgeProxy(
        tmp_path,
        istio.text(
            istio.gateway(istio.server(port, "a", "TCP", "*", ""), istio.http(port, "b")),
            rules(
                "tls",
                "- match: [{sniHosts: [a.example]}]\n  route: [{destination: {host: x.local}}]",
                "b.example",
            ),
            istio.service("x", 1, protocol="TCP", port="tcp"),
        ),
    )
    process = proxy.start(ready=False)
    process.wait()
    said = process.report()
    assert "HTTP contradicts TCP" in said and "a.example is none of this VirtualService's hosts" in said
