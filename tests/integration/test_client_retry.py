"""Clients that retry by themselves on top of the proxy's own retries: recognised, counted,
and nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import free_port, istio
from helpers.mesh import EdgeProxy, request
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

NO_RETRIES = {"retries": {"attempts": 0, "retry_on": []}}


class Statuses(Upstream):
    """Answers with the status that the query asks for: /any?503. 0: closes without an answer."""

    def serve(self, peer: Peer) -> None:
        while head := self.request(peer):
            status = int(head.split(b" ")[1].rpartition(b"?")[2])
            if not status:
                return
            more = b"grpc-status: 14\r\n" if status == 214 else b""
            status = 200 if status == 214 else status
            peer.send(b"HTTP/1.1 %d X\r\n%sContent-Length: 0\r\n\r\n" % (status, more))


def ask(proxy: WorkerProxy, target: str, *fields: str, method: str = "GET", host: str = "x") -> None:
    peer = proxy.dial()
    peer.send("\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode())
    peer.answer()
    peer.close()


ONE, TWO = (
    "x-request-id: 52b8a0d6-1111-4f1e-8d3f-1f1f1f1f1f1f",
    "x-request-id: 52b8a0d6-2222-4f1e-8d3f-1f1f1f1f1f1f",
)


def counted(*requests: tuple[str, ...], **more: str) -> float:
    """How many of these, one after the other, are repeats of a client."""
    up = Statuses()
    with serving(up, config=simple_config(up.port, **NO_RETRIES)) as proxy:
        for target, *fields in requests:
            ask(proxy, target, *fields)
        return proxy.counter("rq_client_retry")


@pytest.mark.parametrize("status", [500, 503, 429, 0])
def test_the_same_request_after_a_failure(status: int) -> None:
    assert counted((f"/a?{status}", ONE), (f"/a?{status}", ONE), (f"/a?{status}", ONE)) == 2


@pytest.mark.parametrize("status", [200, 204, 404, 409])
def test_the_same_request_after_a_success_is_none(status: int) -> None:
    assert counted((f"/a?{status}", ONE), (f"/a?{status}", ONE)) == 0


def test_another_call_with_the_same_id_is_none() -> None:
    """An application passes on the id of the request that it serves."""
    assert counted(("/a?503", ONE), ("/b?503", ONE), ("/a?500", ONE), ("/a?503", TWO), ("/a?503",)) == 0


def test_without_an_id_nothing_can_be_said() -> None:
    assert counted(("/a?503",), ("/a?503",)) == 0


def test_another_method_or_host_is_another_call() -> None:
    up = Statuses()
    with serving(up, config=simple_config(up.port, **NO_RETRIES)) as proxy:
        ask(proxy, "/a?503", ONE)
        ask(proxy, "/a?503", ONE, method="DELETE")
        ask(proxy, "/a?503", ONE, host="y")
        assert proxy.counter("rq_client_retry") == 0
        ask(proxy, "/a?503", ONE, host="y")
        assert proxy.counter("rq_client_retry") == 1


@pytest.mark.parametrize(
    ("value", "repeats"), [("1", 1), ("12", 1), ("0", 0), ("", 0), ("-1", 0), ("1x", 0), ("one", 0)]
)
def test_grpc_clients_say_so(value: str, repeats: int) -> None:
    call = ("content-type: application/grpc", "te: trailers", f"grpc-previous-rpc-attempts: {value}")
    assert counted(("/s/M?200", *call)) == repeats
    assert counted(("/s/M?200", call[2])) == 0


def test_a_grpc_status_is_a_failure_too() -> None:
    call = ("content-type: application/grpc", "te: trailers", ONE)
    assert counted(("/s/M?214", *call), ("/s/M?214", *call)) == 1


def test_the_retries_of_the_proxy_are_none() -> None:
    up = Statuses()
    retries = {"attempts": 2, "retry_on": ["5xx"], "backoff_ms": 0}
    with serving(up, config=simple_config(up.port, retries=retries)) as proxy:
        ask(proxy, "/a?503", ONE)
        assert proxy.counter("rq_retry") == 2 and proxy.counter("rq_client_retry") == 0
        ask(proxy, "/a?503", ONE)
        assert proxy.counter("rq_retry") == 4 and proxy.counter("rq_client_retry") == 1


def test_all_workers_remember_and_the_cluster_shows_it(tmp_path: Path) -> None:
    up, port = Statuses(), free_port()
    text = istio.text(
        istio.gateway(istio.http(port)),
        istio.routes("- route: [{destination: {host: app.local}}]\n  retries: {attempts: 0}"),
        istio.service("app", up.port),
    )
    edge = EdgeProxy(tmp_path, text, "--concurrency", "3")
    edge.start()
    try:
        for _ in range(12):
            assert request(port, "x", "/a?503", x_request_id="52b8a0d6").status == 503
        assert edge.stat("rq_client_retry") == 11
        clusters = json.loads(edge.view("/clusters?format=json")[1])["clusters"]
        (app,) = (c for c in clusters if "app.local" in c["name"])
        assert app["circuit_breakers"]["client_retries"] == 11
        assert "client_retries::11\n" in edge.view("/clusters")[1]
    finally:
        edge.kill()
        up.close()
        print(edge.process.report())
