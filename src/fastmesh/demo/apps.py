"""The demo's two applications, each a process of its own: ordinary HTTP servers that know nothing of a mesh.

    python -m fastmesh.demo.apps reviews --port P --version v1
    python -m fastmesh.demo.apps web --port P --proxy 127.0.0.1:OUTBOUND

`web` calls http://reviews/ through its sidecar and passes on the tracing headers of the request that it
answers: the only thing that a mesh asks of an application.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import threading
from typing import Any, ClassVar

TRACING = ("traceparent", "tracestate", "x-request-id", "b3")
# What reviews tells of the request as it arrived.
SHOWN = ("traceparent", "x-request-id", "x-forwarded-for", "x-forwarded-proto")


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; an answer leaves as one write."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """No access log: the sidecar writes one."""


class Reviews(Handler):
    """Says who it is and what it was asked."""

    version: ClassVar[str]

    def do_GET(self) -> None:
        seen = {name: self.headers[name] for name in SHOWN if name in self.headers}
        self.answer(200, {"service": "reviews", "version": self.version, "headers": seen})


class Web(Handler):
    """Asks reviews and shows the answer in its own. A connection to the sidecar is kept for each client
    connection (a thread each)."""

    proxy: ClassVar[tuple[str, int]]
    _local = threading.local()

    def do_GET(self) -> None:
        headers = {name: self.headers[name] for name in TRACING if name in self.headers}
        try:
            status, answer = self.reviews({"Host": "reviews", **headers})
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            self.answer(502, {"service": "web", "error": f"reviews: {error!r}"})
            return
        self.answer(status, {"service": "web", "reviews": answer})

    def reviews(self, headers: dict[str, str]) -> tuple[int, Any]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(*self.proxy, timeout=10)
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if answer.status == 200 else text


class Server(http.server.ThreadingHTTPServer):
    """A thread a connection, all of them ending with the process."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser("fastmesh.demo.apps")
    parser.add_argument("app", choices=("web", "reviews"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--proxy", default="127.0.0.1:15001", help="the outbound port of web's sidecar")
    args = parser.parse_args()
    Reviews.version = args.version
    host, _, port = args.proxy.rpartition(":")
    Web.proxy = host, int(port)
    with Server(("127.0.0.1", args.port), Web if args.app == "web" else Reviews) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
