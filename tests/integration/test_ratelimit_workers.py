"""Rate limits of a real edge: buckets that all workers share, callers by their certificates, what a crash and
a reload leave of them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from helpers import free_port, istio, wait_for
from helpers.certs import Authority
from helpers.grpc_app import Calls, GrpcApp, Ledger
from helpers.mesh import EdgeProxy
from helpers.worker import Peer, Upstream

WORKERS = 3
MOST = 12


class Site:
    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.up = Upstream()
        self.port, self.mutual = free_port(), free_port()
        ca, self.clients = Authority("servers"), Authority("clients")
        ca.leaf(dns=["one.example"]).write(directory, "one")
        (directory / "clients.pem").write_bytes(self.clients.pem)
        (directory / "ca.pem").write_bytes(ca.pem)
        self.edge = EdgeProxy(directory, self.text(), "--concurrency", str(WORKERS))

    def text(self, most: int = MOST, more: str = "") -> str:
        mutual = f"mode: MUTUAL, caCertificates: {self.dir}/clients.pem"
        return istio.text(
            istio.gateway(
                istio.http(self.port), istio.https(self.mutual, self.dir, "one", name="mtls", more=mutual)
            ),
            istio.routes(
                f"""
                {more}
                - match: [{{uri: {{prefix: /each}}}}]
                  route: [{{destination: {{host: app.local}}}}]
                  localRateLimit: {{perIdentity: {{maxTokens: 2, fillInterval: 1h}}}}
                - match: [{{uri: {{prefix: /direct}}}}]
                  directResponse: {{status: 200}}
                  localRateLimit: {{tokenBucket: {{maxTokens: {most}, fillInterval: 1h}}}}
                - name: all
                  route: [{{destination: {{host: app.local}}}}]
                  localRateLimit: {{tokenBucket: {{maxTokens: {most}, tokensPerFill: 1, fillInterval: 1h}}}}
                """
            ),
            istio.service("app", self.up.port),
        )

    def ask(self, n: int, path: str = "/") -> Counter[int]:
        """So many at once, each on a connection of its own: all workers get some."""
        peers = [Peer(socket.create_connection(("127.0.0.1", self.port), 20)) for _ in range(n)]
        for peer in peers:
            peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        statuses = Counter(peer.answer()[0] for peer in peers)
        for peer in peers:
            peer.close()
        return statuses

    def as_caller(self, name: str, path: str) -> int:
        """A request with this client certificate."""
        context = ssl.create_default_context(cafile=str(self.dir / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(self.dir / f"{name}.pem", self.dir / f"{name}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.mutual, timeout=20, context=context)
        try:
            connection.request("GET", path, headers={"Host": "one.example"})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.edge.start()
    yield made
    made.edge.kill()
    made.up.close()
    print(made.edge.process.report())


@pytest.mark.parametrize("path", ["/", "/direct"])
def test_exactly_most_pass_over_all_workers(site: Site, path: str) -> None:
    n = 100
    assert site.ask(n, path) == {200: MOST, 429: n - MOST}
    assert site.edge.stat("rq_limited") == n - MOST
    line = site.edge.logged(lambda e: e["response_code"] == 429)
    assert line["response_flags"] == "RL" and line["response_code_details"] == "local_rate_limited"
    metrics = site.edge.view("/metrics")[1]
    assert 'response_flags="RL"' in metrics and f"fastmesh_rq_limited_total {n - MOST}" in metrics


def test_a_worker_that_is_killed_gives_nothing_back_and_takes_nothing_along(site: Site) -> None:
    assert site.ask(MOST // 2) == {200: MOST // 2}
    before = site.edge.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not before & site.edge.worker_pids(), 20, "other workers")
    site.edge.wait_ready()
    assert site.ask(40) == {200: MOST - MOST // 2, 429: 40 - (MOST - MOST // 2)}


def test_a_reload_keeps_what_it_does_not_change(site: Site) -> None:
    assert site.ask(20) == {200: MOST, 429: 20 - MOST}
    more = "- match: [{uri: {prefix: /new}}]\n" + " " * 18 + "directResponse: {status: 204}"
    site.edge.reload(site.text(more=more))
    wait_for(lambda: site.ask(1, "/new") == {204: 1})
    assert site.ask(20) == {429: 20}, "the rule has a name: it is the same though another stands before it"
    site.edge.reload(site.text(most=5))
    wait_for(lambda: site.ask(1, "/new") == {200: 1})
    assert site.ask(20) == {200: 4, 429: 16}


def test_callers_are_told_apart_by_their_certificates(site: Site) -> None:
    for name in ("alice", "bob"):
        site.clients.spiffe(f"/ns/default/sa/{name}").write(site.dir, name)
    site.clients.leaf(name="carol").write(site.dir, "carol")  # without a SPIFFE ID: by address
    got = {name: [site.as_caller(name, "/each") for _ in range(6)] for name in ("alice", "bob", "carol")}
    assert list(got.values()) == [[200, 200, 429, 429, 429, 429]] * 3
    # another certificate, the same caller
    site.clients.spiffe("/ns/default/sa/alice").write(site.dir, "alice")
    assert site.as_caller("alice", "/each") == 429
    assert site.ask(1, "/each") == {429: 1}, "the address that carol has used up"


def test_grpc(tmp_path: Path) -> None:
    app = GrpcApp("one", Ledger())
    port = free_port()
    limit = "{tokenBucket: {maxTokens: 3, fillInterval: 1h}}"
    text = istio.text(
        istio.gateway(istio.http(port)),
        istio.routes(f"- route: [{{destination: {{host: app.local}}}}]\n  localRateLimit: {limit}"),
        istio.service("app", app.port, protocol="GRPC"),
    )
    edge = EdgeProxy(tmp_path, text, "--concurrency", "2")
    edge.start()
    try:
        with Calls(port, "app.local") as calls:
            for _ in range(3):
                assert calls.unary("Echo")(b"x", timeout=20) == b"x"
            with pytest.raises(grpc.RpcError) as failed:
                calls.unary("Echo")(b"x", timeout=20)
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert failed.value.details() == "local_rate_limited"
        head = dict(failed.value.initial_metadata()) | dict(failed.value.trailing_metadata())
        assert head["x-ratelimit-limit"] == "3" and head["x-envoy-ratelimited"] == "true"
    finally:
        edge.kill()
        app.close()
