"""A small HTTP/2 client on the `h2` package, one connection in one thread: what it sends and what came is
seen frame by frame, deadlines of gRPC are nobody's but the server's, and WebSocket is possible (RFC 8441).

with H2Client(port) as client:
    answer = client.get("reviews", "/")                 # Answer(status, headers, body, trailers, reset)
    stream = client.open([(":method", "CONNECT"), (":protocol", "websocket"), ...]); stream.send(b"...")
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

Headers = Sequence[tuple[str, str]]
MAX_WINDOW = 2**31 - 1


@dataclass
class Answer:
    """What has come on a stream."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    informational: list[int] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None  # the error code of RST_STREAM

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def grpc_status(self) -> int | None:
        found = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if found is None else int(found)


class Stream:
    def __init__(self, client: H2Client, number: int) -> None:
        self.client = client
        self.number = number
        self.answer = Answer()

    def send(self, data: bytes, end: bool = False) -> None:
        """All of it, as the windows allow."""
        client, at = self.client, 0
        while at < len(data) or (end and not data):
            room = client.h2.local_flow_control_window(self.number)
            if not room and data:
                client.read(lambda: client.h2.local_flow_control_window(self.number) > 0 or self.answer.over)
                assert not self.answer.over, self.answer
                continue
            part = data[at : at + min(room, client.h2.max_outbound_frame_size)]
            at += len(part)
            client.h2.send_data(self.number, part, end_stream=end and at == len(data))
            client.flush()
            if not data:
                break

    def reset(self, code: int = 8) -> None:
        self.client.h2.reset_stream(self.number, code)
        self.client.flush()

    def wait(self, done: Callable[[Answer], object] = lambda answer: answer.over) -> Answer:
        """Until the answer has what is asked of it: by default, until it is over."""
        self.client.read(lambda: done(self.answer))
        return self.answer


class H2Client:
    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, name: str = "", timeout: float = 20
    ) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=name)
            assert sock.selected_alpn_protocol() == "h2"
        self.sock = sock
        self.scheme = "http" if context is None else "https"
        self.timeout = timeout
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}  # the server's
        self.goaways: list[tuple[int, int]] = []  # (last stream, code)
        self.closed = False
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        # RFC 9113 6.8: streams up to its last id go on after a GOAWAY; the package ends all.
        machine = self.h2.state_machine
        client, goaway = h2.connection.ConnectionState.CLIENT_OPEN, h2.connection.ConnectionInputs.RECV_GOAWAY
        machine._transitions = {**machine._transitions, (client, goaway): (None, client)}
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        self.h2.increment_flow_control_window(1 << 24)
        self.flush()

    def __enter__(self) -> H2Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def open(self, headers: Headers, end: bool = False) -> Stream:
        stream = Stream(self, self.h2.get_next_available_stream_id())
        self.streams[stream.number] = stream
        self.h2.send_headers(stream.number, headers, end_stream=end)
        self.flush()
        return stream

    def request(self, authority: str, path: str, method: str = "GET", body: bytes | None = None,
                headers: Headers = ()) -> Stream:  # fmt: skip
        """A request whose answer is not waited for."""
        pseudo = [(":method", method), (":scheme", self.scheme), (":authority", authority), (":path", path)]
        stream = self.open([*pseudo, *headers], end=body is None)
        if body is not None:
            stream.send(body, end=True)
        return stream

    def get(self, authority: str, path: str = "/", **options: object) -> Answer:
        return self.request(authority, path, **options).wait()  # type: ignore[arg-type]

    def grpc(self, authority: str, method: str, message: bytes, headers: Headers = ()) -> Stream:
        """A unary call; no library keeps its deadline here."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        always = [("content-type", "application/grpc"), ("te", "trailers")]
        return self.request(authority, method, "POST", framed, [*always, *headers])

    def read(self, until: Callable[[], object]) -> None:
        """Take what comes until the condition holds; EOF ends it, and the condition must hold then."""
        deadline = time.monotonic() + self.timeout
        while not until():
            assert not self.closed, "the connection was closed"
            self.sock.settimeout(max(deadline - time.monotonic(), 0.01))
            data = self.sock.recv(65536)
            if not data:
                self.closed = True
                for stream in self.streams.values():
                    if not stream.answer.over:
                        stream.answer.reset = -1
                continue
            for event in self.h2.receive_data(data):
                self._event(event)
            self.flush()

    def _event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings.update({int(code): s.new_value for code, s in event.changed_settings.items()})
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append((event.last_stream_id or 0, int(event.error_code or 0)))
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            return
        answer = stream.answer
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)  # type: ignore[arg-type]
            answer.status = int(answer.headers[":status"])
        elif isinstance(event, h2.events.InformationalResponseReceived):
            answer.informational.append(int(dict(event.headers)[":status"]))  # type: ignore[call-overload]
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream.number)
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
