"""What tests of HTTP/2 through a live proxy share: configs with origins of both versions, a good client."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers import wait_for
from helpers.h2raw import dial
from helpers.mesh import EdgeProxy

EDGE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {plain}, name: http, protocol: HTTP}}
    hosts: ["*"]
  - port: {{number: {tls}, name: https, protocol: HTTPS}}
    hosts: ["*"]
    tls: {{mode: SIMPLE, serverCertificate: {dir}/edge.pem, privateKey: {dir}/edge.key}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs}}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - match: [{{uri: {{prefix: /direct}}}}]
    directResponse: {{status: 200, body: {{string: hello}}}}
  - match: [{{uri: {{prefix: /h2}}}}]
    route: [{{destination: {{host: two.local}}}}]
  - route: [{{destination: {{host: one.local}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: one}}
spec:
  hosts: [one.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {one}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: two}}
spec:
  hosts: [two.local]
  ports: [{{number: 80, name: http2, protocol: HTTP2}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http2: {two}}}}}]
"""


def worker_config(one: int = 1, two: int | tuple[int, ...] = 1, **cluster: Any) -> dict[str, Any]:
    """For `serving`: /h2... goes to the HTTP/2 origin(s), /direct is answered by the proxy, the rest goes to
    `one`. `cluster`: more of the HTTP/2 cluster."""
    ports = two if isinstance(two, tuple) else (two,)

    def route(path: str, **more: Any) -> dict[str, Any]:
        return {"name": path, "path": {"op": "prefix", "value": path}, **more}

    def to(cluster: str) -> dict[str, Any]:
        return {"dests": [{"cluster": cluster, "weight": 1}]}

    def endpoints(*ports: int) -> list[dict[str, Any]]:
        return [{"address": "127.0.0.1", "port": port} for port in ports]

    routes = [
        route("/direct", direct={"status": 200, "body": b"hello"}),
        route("/h2", **to("two")),
        route("/", **to("one")),
    ]
    return {
        "node_id": "test",
        "listeners": [{"name": "l", "kind": "gateway", "address": "127.0.0.1", "port": 80, "table": "t"}],
        "tables": [{"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}],
        "clusters": [
            {"name": "one", "endpoints": endpoints(one)},
            {"name": "two", "endpoints": endpoints(*ports), "protocol": "h2", **cluster},
        ],
        "tls": [],
    }


def started_edge(directory: Path, *options: str, **values: Any) -> EdgeProxy:
    """`fastmesh edge` with one worker: what hurts one client would be felt by all."""
    edge = EdgeProxy(directory, EDGE.format(dir=directory, **values), "--concurrency", "1", *options)
    edge.start()
    return edge


def pss(pid: int) -> int:
    """Bytes of memory that a process answers for."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


class Good:
    """A client that asks on a connection of its own, and is answered throughout the block."""

    def __init__(self, port: int, path: str = "/direct") -> None:
        self.answered = 0
        self.bad: list[str] = []
        self._client = dial(port)
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Good:
        self._thread.start()
        self.more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.more()
        self._stop.set()
        self._thread.join(20)
        self._client.close()
        if kind is None:
            assert self.bad == []

    def more(self, n: int = 3) -> None:
        """So many answers that were asked for after this call."""
        wanted = self.answered + n + 1
        wait_for(lambda: self.answered >= wanted or self.bad, 15, "answers to a good client")
        assert self.bad == []

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.002):
                answer = self._client.get(self._path)
                assert answer.status == 200 and answer.body, answer
                self.answered += 1
        except (OSError, AssertionError) as error:
            self.bad.append(repr(error))
