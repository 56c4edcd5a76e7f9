"""Active health checks over HTTP/2 and as gRPC (grpcio's server), with TLS, through sidecars, by several
workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import cluster_id
from helpers import free_port, istio, wait_for
from helpers.app import App, Existing
from helpers.certs import Authority, Leaf
from helpers.h2origin import Origin, Request
from helpers.mesh import EdgeProxy, Sidecar, running
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

UNKNOWN, HEALTHY, UNHEALTHY = range(3)
STATES = ("unknown", "healthy", "unhealthy")
SERVING, NOT_SERVING = 1, 2
FAST = {"interval_ms": 30, "timeout_ms": 5000}


def checked(*ports: int, cluster: dict[str, Any] | None = None, **health: Any) -> dict[str, Any]:
    config = simple_config(*ports, retries={"attempts": 0})
    config["clusters"][0].update(health={**FAST, **health}, service="app.local", **(cluster or {}))
    return config


def health(proxy: WorkerProxy, port: int) -> int:
    cell = proxy.cells.cells[cluster_id(f"c\x00127.0.0.1:{port}")]
    return clusters.health(proxy.segment, cell)["health"]


def until(proxy: WorkerProxy, port: int, state: int) -> None:
    wait_for(lambda: health(proxy, port) == state, 20, f"{port} {STATES[state]}")


def hc(proxy: WorkerProxy) -> dict[str, int]:
    return {k[3:]: v for k, v in proxy.segment.counters().items() if k.startswith("hc_") and v}


# ---- gRPC


class Health:
    """grpcio's server with grpc.health.v1.Health/Check: `status` by name, else NOT_FOUND."""

    def __init__(self, leaf: Leaf | None = None, port: int = 0) -> None:
        self.status: dict[str, int] = {"": SERVING}
        self.hangs = threading.Event()
        self.end = threading.Event()
        self.metadata: dict[str, Any] = {}
        self.remaining = 0.0
        self.asked: list[bytes] = []
        self.pool = ThreadPoolExecutor(64)
        self.server = grpc.server(self.pool, options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(self.check)
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        self.server.add_generic_rpc_handlers((handler,))
        if leaf is None:
            self.port: int = self.server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            credentials = grpc.ssl_server_credentials([(leaf.key, leaf.cert)])
            self.port = self.server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.server.start()

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        self.metadata = {str(k): v for k, v in context.invocation_metadata()}
        self.remaining = context.time_remaining()
        if self.hangs.is_set():
            self.end.wait(30)
        name = request[2:].decode()
        if name not in self.status:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return b"\x08" + bytes([self.status[name]])

    def close(self) -> None:
        self.end.set()
        self.server.stop(None).wait()
        self.pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def app() -> Iterator[Health]:
    made = Health()
    yield made
    made.close()


def test_a_grpc_server_that_says_that_it_does_not_serve(app: Health) -> None:
    with serving(config=checked(app.port, kind="grpc")) as proxy:
        until(proxy, app.port, HEALTHY)
        assert app.asked[0] == b"" and 0 < app.remaining <= 5
        assert app.metadata["user-agent"] == "fastmesh-hc"
        for status in (NOT_SERVING, 0, 3):
            app.status[""] = status
            until(proxy, app.port, UNHEALTHY)
            app.status[""] = SERVING
            until(proxy, app.port, HEALTHY)
        assert "network_failure" not in hc(proxy)


def test_a_grpc_service_is_asked_for_by_its_name(app: Health) -> None:
    app.status["mesh.Test"] = NOT_SERVING
    with serving(config=checked(app.port, kind="grpc", service="mesh.Test", host="x.example")) as proxy:
        until(proxy, app.port, UNHEALTHY)
        app.status["mesh.Test"] = SERVING
        until(proxy, app.port, HEALTHY)
        del app.status["mesh.Test"]
        until(proxy, app.port, UNHEALTHY)
        assert set(app.asked) == {b"\x0a\x09mesh.Test"} and "network_failure" not in hc(proxy)


def test_a_grpc_server_that_hangs_is_closed_and_comes_back(app: Health) -> None:
    port = app.port
    with serving(config=checked(port, kind="grpc", timeout_ms=300)) as proxy:
        until(proxy, port, HEALTHY)
        app.hangs.set()
        until(proxy, port, UNHEALTHY)
        app.hangs.clear()
        app.end.set()
        until(proxy, port, HEALTHY)
        app.close()
        until(proxy, port, UNHEALTHY)
        again = Health(port=port)
        until(proxy, port, HEALTHY)
        again.close()


GRPC = [("content-type", "application/grpc")]
YES = b"\0\0\0\0\2\x08\1"


@pytest.mark.parametrize(
    ("case", "good"),
    [
        ("good", True),
        ("slow", True),
        ("no grpc-status", False),
        ("status 14", False),
        ("trailers only", False),
        ("no message", False),
        ("two messages", False),
        ("long", False),
        ("html", False),
        ("503", False),
        ("reset", False),
        ("goaway", True),
    ],
)
def test_answers_to_a_grpc_check(case: str, good: bool) -> None:
    def answer(call: Request) -> None:
        call.wait_end()
        assert bytes(call.body) == b"\0\0\0\0\0" and call["te"] == "trailers" and call["grpc-timeout"] == "5S"
        assert (call[":method"], call[":path"]) == ("POST", "/grpc.health.v1.Health/Check")
        assert (call[":authority"], call[":scheme"]) == ("app.local", "http")
        ok = [("grpc-status", "0")]
        if case == "good":
            call.answer(200, GRPC, YES, ok)
        elif case == "slow":
            call.interim(103)
            call.head(200, GRPC)
            for byte in YES:
                call.data(bytes([byte]))
            call.end(ok)
        elif case == "no grpc-status":
            call.answer(200, GRPC, YES)
        elif case == "status 14":
            call.answer(200, GRPC, YES, [("grpc-status", "14")])
        elif case == "trailers only":
            call.head(200, [*GRPC, ("grpc-status", "12")], end=True)
        elif case == "no message":
            call.answer(200, GRPC, b"", ok)
        elif case == "two messages":
            call.answer(200, GRPC, YES + YES, ok)
        elif case == "long":
            call.answer(200, GRPC, b"\0\0\0\x80\0" + b"\x12\x80\x80\1" + bytes(32764), ok)
        elif case == "html":
            call.answer(200, [("content-type", "text/html")], YES, ok)
        elif case == "503":
            call.answer(503, GRPC, YES, ok)
        elif case == "reset":
            call.reset(2)
        else:
            call.link.goaway(call.id)
            call.answer(200, GRPC, YES, ok)

    origin = Origin(answer)
    with serving(config=checked(origin.port, kind="grpc")) as proxy:
        until(proxy, origin.port, HEALTHY if good else UNHEALTHY)
        wait_for(lambda: hc(proxy)["attempt"] >= 3)
        assert ("failure" in hc(proxy)) == (not good)
        assert ("network_failure" in hc(proxy)) == (case == "reset")
    origin.close()


# ---- HTTP/2


@pytest.mark.parametrize(("status", "good"), [(200, True), (500, False)])
@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_http_over_http_2(status: int, good: bool, size: int) -> None:
    def answer(request: Request) -> None:
        assert (request[":method"], request[":path"], request["user-agent"]) == (
            "GET",
            "/healthz",
            "fastmesh-hc",
        )
        assert request.ended and request[":authority"] == "app.local"
        request.answer(status, body=b"x" * size)

    origin = Origin(answer)
    config = checked(origin.port, kind="http", path="/healthz", cluster={"protocol": "h2"})
    with serving(config=config) as proxy:
        until(proxy, origin.port, HEALTHY if good else UNHEALTHY)
        wait_for(lambda: hc(proxy)["attempt"] >= 3)
        assert "network_failure" not in hc(proxy) and ("failure" in hc(proxy)) == (not good)
    origin.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad\r\n\r\n", bytes(9), None])
def test_what_does_not_speak_http_2_is_unhealthy(answer: bytes | None) -> None:
    end = threading.Event()

    def odd(peer: Peer) -> None:
        if answer is None:
            end.wait(30)
            return
        peer.exactly(24)
        peer.send(answer)

    up = Upstream(odd)
    with serving(up, config=checked(up.port, kind="grpc", timeout_ms=200)) as proxy:
        until(proxy, up.port, UNHEALTHY)
        assert hc(proxy)["network_failure"] == hc(proxy)["failure"]
        end.set()


# ---- TLS

CA, OTHER = Authority(), Authority("another root")
TLS = {"context": "t", "sni": "app.example", "sans": ["app.example"], "verify_san": True}


def secured(port: int, alpn: list[str], ca: Authority = CA, **health: Any) -> dict[str, Any]:
    config = checked(port, cluster={"tls": TLS}, **health)
    config["clusters"][0]["endpoints"][0]["tls"] = True
    config["tls"] = [{"name": "t", "server": False, "ca": ca.pem, "verify": True, "alpn": alpn}]
    return config


@pytest.mark.parametrize(
    ("name", "ca", "good"),
    [("app.example", CA, True), ("other.example", CA, False), ("app.example", OTHER, False)],
)
@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_the_clusters_tls_is_used(name: str, ca: Authority, good: bool, kind: str, tmp_path: Path) -> None:
    cert, key = CA.leaf(dns=[name]).write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    names: list[str] = []
    context.sni_callback = lambda _, sni, __: names.append(sni)
    app = App("secure", context=context)
    with serving(
        config=secured(app.port, ["http/1.1"], ca, kind=kind, path="/" if kind == "http" else "")
    ) as proxy:
        until(proxy, app.port, HEALTHY if good else UNHEALTHY)
        assert ("network_failure" in hc(proxy)) == (not good)
        assert set(names) == {"app.example"}
        assert (app.requests > 0) == (good and kind == "http")
        counters = proxy.segment.counters()
        assert counters["tls_connect"] == counters["tls_connect_fail"] == 0  # of requests' connections
    app.close()


@pytest.mark.parametrize("alpn", [["h2"], ["h2", "http/1.1"]])
def test_grpc_over_tls(alpn: list[str]) -> None:
    app = Health(CA.leaf(dns=["app.example"]))
    with serving(config=secured(app.port, alpn, kind="grpc")) as proxy:
        until(proxy, app.port, HEALTHY)
        app.status[""] = NOT_SERVING
        until(proxy, app.port, UNHEALTHY)
        assert "network_failure" not in hc(proxy)
    app.close()


# ---- several workers


class Counting(Upstream):
    """When each check came."""

    def __init__(self) -> None:
        super().__init__(self.count)
        self.good = True
        self.at: list[float] = []
        self.asked = 0

    def count(self, peer: Peer) -> None:
        while head := self.request(peer):
            if b"fastmesh-hc" in head:
                self.at.append(time.monotonic())
                status = "200 OK" if self.good else "500 No"
            else:
                self.asked += 1
                status = "200 OK"
            peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())


class Site:
    """An edge with three workers before two applications."""

    def __init__(self, directory: Path, interval: str) -> None:
        self.ups = [Counting(), Counting()]
        self.port = free_port()
        self.policy = f"""
        healthChecks:
          interval: {interval}
          timeout: 1s
          unhealthyThreshold: 2
          httpHealthCheck: {{path: /healthz}}
        """
        self.edge = EdgeProxy(directory, self.text(self.policy), "--concurrency", "3")
        self.edge.start()

    def text(self, policy: str) -> str:
        return istio.text(
            istio.gateway(istio.http(self.port)),
            istio.routes("- route: [{destination: {host: app.local}}]\n  retries: {attempts: 0}"),
            istio.service("app", *(u.port for u in self.ups)),
            istio.policy("app", policy),
        )

    def states(self) -> list[dict[str, Any]]:
        found = json.loads(self.edge.view("/clusters?format=json")[1])["clusters"]
        by_port = {int(e["address"].rpartition(":")[2]): e for c in found for e in c["endpoints"]}
        return [by_port[u.port] for u in self.ups]

    def until(self, *health: str) -> None:
        wait_for(lambda: [s["health"] for s in self.states()] == list(health), 20, str(health))

    def close(self) -> None:
        self.edge.kill()
        print(self.edge.process.report())
        for up in self.ups:
            up.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, getattr(request, "param", "200ms"))
    yield made
    made.close()


def test_several_workers_make_each_check_once_and_all_know(site: Site) -> None:
    """Of an idle cluster, too."""
    wait_for(lambda: all(len(u.at) >= 12 for u in site.ups), 30)
    assert site.edge.stat("rq_total") == 0 and site.edge.stat("up_cx_total") == 0
    for up in site.ups:
        # An interval lies between two. Workers that made their own would take a third of the time; a busy
        # machine only makes it longer.
        assert up.at[11] - up.at[0] > 11 * 0.2 * 0.6
    assert all(s["active_check"] == "healthy" and s["checks_passed"] >= 12 for s in site.states())
    bad, good = site.ups
    bad.good = False
    site.until("unhealthy", "healthy")
    assert site.states()[0]["checks_failed"] >= 2 and site.edge.stat("hc_unhealthy") == 1
    before = bad.asked
    seen = Counter(ask(site.port) for _ in range(30))  # each on a connection of its own: all workers
    assert seen == {200: 30} and bad.asked == before and good.asked == 30
    lead = f"127.0.0.1:{bad.port}"
    text = site.edge.view("/clusters")[1]
    assert f"{lead}::health_flags::unhealthy\n" in text and f"{lead}::active_check::unhealthy\n" in text
    metrics = site.edge.view("/metrics")[1]
    assert 'fastmesh_cluster_endpoints_unhealthy{cluster="outbound|80||app.local"} 1\n' in metrics
    assert 'fastmesh_cluster_endpoints{cluster="outbound|80||app.local"} 2\n' in metrics
    good.good = False
    site.until("unhealthy", "unhealthy")
    assert Counter(ask(site.port) for _ in range(6)) == {503: 6}
    wait_for(
        lambda: [e["response_flags"] for e in site.edge.lines() if e["response_code"] == 503] == ["UH"] * 6
    )
    bad.good = good.good = True
    site.until("healthy", "healthy")
    # and a config without checks
    good.good = False
    site.until("healthy", "unhealthy")
    site.edge.reload(site.text("connectionPool: {}"))
    wait_for(lambda: [s["active_check"] for s in site.states()] == ["off", "off"], 20)
    site.until("healthy", "healthy")
    wait_for(lambda: site.edge.stat("rq_total") and (ask(site.port), good.asked > 30)[1], 20)


def ask(port: int) -> int:
    peer = Peer(socket.create_connection(("127.0.0.1", port), 20))
    try:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return peer.answer()[0]
    finally:
        peer.close()


@pytest.mark.parametrize("site", ["50ms"], indirect=True)
def test_checks_go_on_when_workers_are_killed(site: Site) -> None:
    """One after the other, each with whatever it has in its hands."""
    site.until("healthy", "healthy")
    for pid in sorted(site.edge.worker_pids()):
        before = [len(u.at) for u in site.ups]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda b=before: all(len(u.at) > n + 5 for u, n in zip(site.ups, b, strict=True)), 20)  # type: ignore[misc]
    site.ups[0].good = False
    site.until("unhealthy", "healthy")


# ---- through sidecars

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {name}
  trafficPolicy:
    healthChecks: {{interval: 200ms, timeout: 2s, {check}}}
"""


def said_of(caller: Sidecar, service: str) -> dict[int, dict[str, Any]]:
    found = json.loads(caller.view("/clusters?format=json")[1])["clusters"]
    return {
        int(e["address"].rpartition(":")[2]): e
        for c in found
        if c["name"].startswith("outbound|") and f"|{service}." in c["name"]
        for e in c["endpoints"]
    }


def test_through_sidecars(tmp_path: Path) -> None:
    """HTTP and gRPC reach the application over the mesh's own link; TCP reaches its sidecar."""
    grpc_app, bad, good = Health(), Counting(), Counting()
    with running(tmp_path) as mesh:
        web = mesh.sidecar("web")
        one, two = (mesh.sidecar("app", app=Existing("app", up.port)) for up in (bad, good))
        calls = mesh.sidecar("calls", "--app-protocol", "grpc", app=Existing("calls", grpc_app.port))
        mesh.reaches(web, "app", one, two)
        mesh.reaches(web, "calls", calls)
        mesh.apply(RULE.format(name="app", check="httpHealthCheck: {path: /healthz}"))
        mesh.apply(RULE.format(name="calls", check="grpcHealthCheck: {}"))

        def until_said(service: str, callee: Sidecar, state: str) -> None:
            wait_for(
                lambda: said_of(web, service)[callee.inbound]["active_check"] == state,
                20,
                f"{callee.name} {state}",
            )

        for service, callee in (("app", one), ("app", two), ("calls", calls)):
            until_said(service, callee, "healthy")
        head = bad.heads[0].lower()
        assert (
            head.startswith(b"get /healthz http/1.1\r\n")
            and b"host: app.default.svc.cluster.local\r\n" in head
        )
        bad.good = False
        until_said("app", one, "unhealthy")
        before = bad.asked
        assert [web.get("app").status for _ in range(10)] == [200] * 10
        assert bad.asked == before and good.asked >= 10
        grpc_app.status[""] = NOT_SERVING
        until_said("calls", calls, "unhealthy")
        grpc_app.status[""] = SERVING
        until_said("calls", calls, "healthy")
        # of TCP the sidecar is what is asked
        mesh.apply(RULE.format(name="app", check="tcpHealthCheck: {}"))
        until_said("app", one, "healthy")
        assert web.stat("hc_failure") > 0 and web.stat("tls_connect_fail") == 0
    for each in (grpc_app, bad, good):
        each.close()
