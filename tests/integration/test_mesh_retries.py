"""Retries along a chain of sidecars whose last application is dead: they must not multiply."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.app import Existing
from helpers.mesh import Mesh, Sidecar, running

CHAIN = ["a", "b", "c", "leaf"]
PASSED_ON = ("traceparent", "x-request-id")
RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
  - route: [{{destination: {{host: {name}}}}}]
    retries: {{attempts: 2, retryOn: 5xx, backoff: 10ms}}
---
"""


class Link:
    """An application that calls the next one through its own sidecar, passes the trace on, and answers as it
    was answered. The last one is broken."""

    def __init__(self) -> None:
        self.requests = 0
        self.attempts: list[str] = []
        self.lock = threading.Lock()
        self.sidecar: Sidecar | None = None
        self.following = ""
        link = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                with link.lock:
                    link.requests += 1
                    link.attempts.append(self.headers.get("x-envoy-attempt-count", ""))
                status = link.call({name: self.headers[name] for name in PASSED_ON if self.headers[name]})
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def call(self, headers: dict[str, str]) -> int:
        if not self.following:
            threading.Event().wait(0.5)  # so that as many are in flight as the clients make
            return 503
        assert self.sidecar is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.sidecar.outbound, timeout=30)
        try:
            connection.request("GET", "/", headers={"Host": self.following, **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@pytest.fixture
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, Sidecar, dict[str, Link]]]:
    with running(tmp_path_factory.mktemp("chain")) as mesh:
        links = {name: Link() for name in CHAIN}
        for name, following in zip(CHAIN, [*CHAIN[1:], ""], strict=True):
            link = links[name]
            link.sidecar = mesh.sidecar(name, app=Existing(name, link.port), ready=False)
            link.following = following
        web = mesh.sidecar("web", app=Existing("web", 1), ready=False)
        for sidecar in mesh.sidecars:
            sidecar.wait_ready()
        caller = web
        for name in CHAIN:
            sidecar = links[name].sidecar
            assert sidecar is not None
            mesh.reaches(caller, name, sidecar)
            caller = sidecar
        mesh.apply("".join(RETRIES.format(name=name) for name in CHAIN))
        yield mesh, web, links
        for link in links.values():
            link.server.shutdown()


def test_a_dead_leaf_gets_a_fifth_more_and_not_eighty_one_times(
    chain: tuple[Mesh, Sidecar, dict[str, Link]],
) -> None:
    _, web, links = chain
    n, at_a_time = 200, 40
    with ThreadPoolExecutor(at_a_time) as pool:
        statuses = list(pool.map(lambda _: web.get("a").status, range(n)))
    assert set(statuses) == {503}
    loads = {name: link.requests for name, link in links.items()}
    # 1.2 by the budget; its minimum of 3 weighs more where a busy machine has fewer in flight
    assert n < loads["leaf"] <= 1.3 * n, loads
    # Only the last hop has tried again; the others were told that it had.
    assert loads["a"] + loads["b"] + loads["c"] <= 3 * n * 1.05, loads
    assert links["leaf"].attempts.count("2") > 0 and links["leaf"].attempts.count("1") >= n
    given_up = [links[name].sidecar.stat("rq_retry_given_up") for name in ("a", "b")]  # type: ignore[union-attr]
    assert all(count > 0 for count in given_up) and web.stat("rq_retry_given_up") > 0
