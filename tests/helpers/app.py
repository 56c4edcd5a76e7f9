"""An application behind a proxy, scripted by the path that it is asked for.

/            200 and a JSON account of the request: app, method, path, headers, bytes of the body
/sleep/S     the same, after S seconds; `sleeping` counts those that have begun
/hold        the same, once `release` is set (`sleeping` counts it, too)
/status/N    the same with status N
/bytes/N     N bytes
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from typing import Any


class App:
    """Threads of the test process; `seen` has the newest accounts, `requests` counts all."""

    def __init__(self, name: str, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []
        self.requests = 0
        self.sleeping = 0
        self.release = threading.Event()
        self.context = context
        app = self

        class Handler(_Handler):
            owner = app

        self.server = _Server(("127.0.0.1", port), Handler)
        self.server.context = context
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


class Existing(App):
    """An application that runs somewhere else."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def close(self) -> None:
        """Not ours."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a handshake that hangs keeps nobody else waiting.
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    owner: App

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _serve(self) -> None:
        app = self.owner
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        account = {
            "app": app.name, "method": self.command, "path": self.path, "headers": headers,
            "body": len(body), "tls": getattr(self.connection, "version", str)(),
        }  # fmt: skip
        app.requests += 1
        app.seen = [*app.seen[-99:], account]
        word, _, value = self.path.lstrip("/").partition("/")
        status, text = 200, json.dumps(account).encode()
        if word == "sleep":
            app.sleeping += 1
            threading.Event().wait(float(value))
        elif word == "hold":
            app.sleeping += 1
            app.release.wait(60)
        elif word == "status":
            status = int(value)
        elif word == "bytes":
            text = bytes(int(value))
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("x-app", app.name)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return True

    def log_message(self, *args: Any) -> None:
        """Quiet."""
