"""WebSocket by both versions of HTTP on either side, through an edge and two sidecars (RFC 6455, 8441)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.exceptions
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from helpers import ways
from helpers.h2client import H2Client, Stream
from helpers.net import free_port, wait_for
from helpers.ways import Upstream, Way

MIB = 1 << 20
CONNECT_PROTOCOL = 8  # SETTINGS_ENABLE_CONNECT_PROTOCOL
SERVICES = ["one", "two"]  # the version of HTTP that the application speaks

APP = """
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        if event.get("text") == "leave":
            await send({"type": "websocket.close", "code": 4321})
            return
        send_back = {"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")}
        await send(send_back)
"""


def echo(ws: ServerConnection) -> None:
    for message in ws:
        if message == "leave":
            ws.close(4321)
            return
        ws.send(message)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Upstream]]:
    directory: Path = tmp_path_factory.mktemp("app")
    (directory / "echo.py").write_text(APP)
    port = free_port()
    log = (directory / "log").open("wb")
    command = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}"]
    app = subprocess.Popen([*command, "echo:app"], cwd=directory, stdout=log, stderr=log)

    def refuse(ws: ServerConnection, request: object) -> object:
        return ws.respond(403, "no\n") if request.path == "/no" else None  # type: ignore[attr-defined]

    server = serve(echo, "127.0.0.1", 0, process_request=refuse, max_size=4 * MIB)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, 20, "hypercorn")
    try:
        yield [Upstream("one", [server.socket.getsockname()[1]]), Upstream("two", [port], "HTTP2")]
    finally:
        server.shutdown()
        app.terminate()
        app.wait(10)


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, apps: list[Upstream]
) -> Iterator[Way]:
    with ways.opened(request.param, tmp_path_factory.mktemp("way"), apps) as way:
        yield way


# --- clients that speak HTTP/1.1


def upgraded(way: Way, service: str, path: str = "/"):  # type: ignore[no-untyped-def]
    sock = socket.create_connection(("127.0.0.1", way.plain))
    return connect(f"ws://{service}{path}", sock=sock, max_size=4 * MIB, compression=None)


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_messages_over_http1(way: Way, service: str) -> None:
    with upgraded(way, service) as ws:
        for message in ("hello", b"\0\xff" * 500, "", b"x" * MIB, "é" * 1000):
            ws.send(message)
            assert ws.recv(20) == message
        ws.close(1000, "done")
        assert (ws.close_code, ws.close_reason) == (1000, "done")


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_the_application_closes_with_a_code(way: Way, service: str) -> None:
    with upgraded(way, service) as ws:
        ws.send("leave")
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4321


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_an_upgrade_that_is_declined(way: Way, service: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        upgraded(way, service, "/no")
    assert refused.value.response.status_code == 403


# --- clients that speak HTTP/2


def extended(client: H2Client, service: str, path: str = "/") -> Stream:
    client.read(lambda: client.settings.get(CONNECT_PROTOCOL) == 1)
    pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path)]
    return client.open([*pseudo, (":authority", service), ("sec-websocket-version", "13")])


def put(stream: Stream, opcode: Opcode, data: bytes) -> None:
    stream.send(Frame(opcode, data).serialize(mask=True))


def take(stream: Stream) -> tuple[Opcode, bytes]:
    """The next message of the application, its fragments put together."""
    answer, first, data = stream.answer, Opcode.CONT, b""

    def whole(n: int) -> bytes:
        stream.wait(lambda a: len(a.body) >= n or a.over)
        assert len(answer.body) >= n, answer
        return bytes(answer.body)

    while True:
        body = whole(2)
        length, at = body[1] & 127, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(whole(at)[2:at], "big")
        body = whole(at + length)
        answer.body = body[at + length :]
        if body[0] & 15 == Opcode.PING:
            continue
        first, data = first or Opcode(body[0] & 15), data + body[at : at + length]
        if body[0] & 128:
            return first, data


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_messages_over_http2(way: Way, service: str) -> None:
    with H2Client(way.plain) as client:
        stream = extended(client, service)
        assert stream.wait(lambda a: a.status or a.over).status == 200
        assert "upgrade" not in stream.answer.headers and "sec-websocket-accept" not in stream.answer.headers
        for data in (b"hello", b"\0\xff" * 500, b"x" * MIB):
            opcode = Opcode.TEXT if data == b"hello" else Opcode.BINARY
            put(stream, opcode, data)
            assert take(stream) == (opcode, data)
        put(stream, Opcode.CLOSE, Close(1000, "done").serialize())
        opcode, data = take(stream)
        assert opcode is Opcode.CLOSE and data[:2] == b"\x03\xe8"


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_the_application_closes_a_stream_with_a_code(way: Way, service: str) -> None:
    with H2Client(way.plain) as client:
        stream = extended(client, service)
        put(stream, Opcode.TEXT, b"leave")  # at once: it waits until the application has accepted
        opcode, data = take(stream)
        assert opcode is Opcode.CLOSE and int.from_bytes(data[:2], "big") == 4321
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # it may have ended the stream already
            put(stream, Opcode.CLOSE, data)
        stream.wait()
        assert stream.answer.ended or stream.answer.reset is not None


@ways.PROXIED
@pytest.mark.parametrize("service", SERVICES)
def test_an_extended_connect_that_is_declined(way: Way, service: str) -> None:
    with H2Client(way.plain) as client:
        assert extended(client, service, "/no").wait().status == 403


@ways.PROXIED
def test_other_protocols_than_websocket_are_refused(way: Way) -> None:
    with H2Client(way.plain) as client:
        client.read(lambda: client.settings.get(CONNECT_PROTOCOL) == 1)
        pseudo = [(":method", "CONNECT"), (":protocol", "connect-udp"), (":scheme", "http"), (":path", "/")]
        assert client.open([*pseudo, (":authority", "one")]).wait().status == 501
        assert client.get("one", "/no").status == 403  # the connection goes on


# --- the end of one side alone


def half_closing() -> socket.socket:
    """An application that takes the upgrade, reads to the end of its input, and answers then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = listener.accept()[0]
                with sock:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
                    data = head.partition(b"\r\n\r\n")[2]
                    while part := sock.recv(65536):
                        data += part
                    sock.sendall(b"%d bytes" % len(data))

    threading.Thread(target=run, daemon=True).start()
    return listener


@pytest.mark.parametrize("kind", ["edge", "sidecars"])
def test_a_client_of_http2_ends_its_side_first(kind: str, tmp_path: Path) -> None:
    with half_closing() as listener:
        upstream = Upstream("half", [listener.getsockname()[1]])
        with ways.opened(kind, tmp_path, [upstream]) as way, H2Client(way.plain) as client:
            stream = extended(client, "half")
            stream.send(b"x" * 300_000, end=True)
            answer = stream.wait()
            assert (answer.status, answer.body, answer.ended) == (200, b"300000 bytes", True)
