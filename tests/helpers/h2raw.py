"""HTTP/2 as tests need it: frames byte for byte, and a client that sends whatever it is told to.

    client = Client(socket)                       # preface and SETTINGS are sent
    sid = client.request("POST", "/", body=b"x")
    answer = client.answer(sid)                   # status, fields, body, trailers, interim
    client.send(frame(PING, 0, 0, b"12345678"))   # anything at all
    client.goaway()                               # (last id, code) of the GOAWAY that comes

A scripted origin server is in helpers/h2origin.py.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import hpack

T = TypeVar("T")
Fields = Sequence[tuple[str | bytes, str | bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION,
) = range(10)  # fmt: skip
NAMES = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY",
    "WINDOW_UPDATE", "CONTINUATION",
)  # fmt: skip
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED,
    FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY, HTTP_1_1_REQUIRED,
) = range(14)  # fmt: skip
(
    HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)  # fmt: skip
MAX_FRAME = 16384
WINDOW_MOST = 2**31 - 1
DEFAULT_WINDOW = 65535


# ---- frames, written -------------------------------------------------------------------------------------


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None
) -> bytes:
    """A frame; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", which, value) for which, value in pairs))


def rst(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, n: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", n))


def goaway(last: int, code: int = NO_ERROR, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def ping(data: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(PING, flags, 0, data)


def data(stream: int, payload: bytes = b"", end: bool = False, pad: int | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if pad is not None:
        flags, payload = flags | PADDED, bytes([pad]) + payload + bytes(pad)
    return frame(DATA, flags, stream, payload)


def headers(
    stream: int,
    block: bytes,
    end: bool = False,
    *,
    pieces: int = 1,
    pad: int | None = None,
    priority: bytes = b"",
) -> bytes:
    """HEADERS with a block, cut into so many frames (or as many as it needs); `priority`: its five bytes."""
    pieces = max(pieces, -(-len(block) // (MAX_FRAME - 300)))  # beside padding and priority
    cut = -(-len(block) // pieces) if block else 1
    parts = [block[at : at + cut] for at in range(0, len(block), cut)] or [b""]
    first = priority + parts[0]
    flags = (END_STREAM if end else 0) | (WITH_PRIORITY if priority else 0)
    if pad is not None:
        flags, first = flags | PADDED, bytes([pad]) + first + bytes(pad)
    out = b""
    for i, part in enumerate(parts):
        last = END_HEADERS if i == len(parts) - 1 else 0
        out += frame(CONTINUATION, last, stream, part) if i else frame(HEADERS, flags | last, stream, first)
    return out


# ---- header blocks without tables ------------------------------------------------------------------------


def integer(n: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 5.1, with `first` in the bits before it."""
    most = (1 << bits) - 1
    if n < most:
        return bytes([first | n])
    out, n = bytes([first | most]), n - most
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def literal(name: str | bytes, value: str | bytes, how: int = 0x00) -> bytes:
    """A field said in full, not Huffman coded; `how`: 0x10 never indexed, 0x40 into the dynamic table."""
    name, value = _bytes(name), _bytes(value)
    return bytes([how]) + integer(len(name), 7) + name + integer(len(value), 7) + value


def literals(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """A whole block that touches nobody's tables: it can be sent beside what an encoder writes."""
    return b"".join(literal(name, value) for name, value in fields)


def indexed(n: int) -> bytes:
    return integer(n, 7, 0x80)


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def pseudo(
    method: str = "GET", path: str = "/", authority: str = "test", scheme: str = "http"
) -> list[tuple[str | bytes, str | bytes]]:
    """The pseudo fields of a request."""
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]


# ---- the client ------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    def __repr__(self) -> str:
        name = NAMES[self.kind] if self.kind < len(NAMES) else f"type {self.kind}"
        start = f"{len(self.payload)}: {self.payload[:40]!r}"
        return f"{name}(stream={self.stream}, flags={self.flags:#x}, {start})"

    @property
    def code(self) -> int:
        """Of RST_STREAM and GOAWAY."""
        (code,) = struct.unpack(">I", self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8])
        return int(code)


@dataclass
class Answer:
    """What came on one stream so far."""

    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] | None = None
    interim: list[tuple[int, list[tuple[str, str]]]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    cancelled: bool = False  # by ourselves: what is still on its way is no matter

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def __getitem__(self, name: str) -> str:
        """A field's only value."""
        (value,) = [v for k, v in self.fields if k == name]
        return value

    def get(self, name: str) -> str | None:
        return next((v for k, v in self.fields if k == name), None)


class Client:
    """One side of a connection, in one thread. What comes is read when a method waits for something."""

    def __init__(
        self,
        sock: socket.socket,
        *pairs: tuple[int, int],
        preface: bool = True,
        credit: bool = True,
        acknowledge: bool = True,
        timeout: float = 15,
    ) -> None:
        """`pairs`: our SETTINGS. credit: WINDOW_UPDATE for all DATA; acknowledge: answer SETTINGS, PING."""
        sock.settimeout(timeout)
        self.sock = sock
        self.timeout = timeout
        self.credit = credit
        self.acknowledge = acknowledge
        self.buf = bytearray()
        self.frames: list[Frame] = []
        self.streams: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int]] = []
        self.ended = False  # the other side has closed
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.peer: dict[int, int] = {}
        self.settled = False  # our SETTINGS are acknowledged
        self.next_id = 1
        self.window = DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self._block = b""
        self._block_flags = 0
        if preface:
            self.send(PREFACE + settings(*pairs))

    # --- out

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def pour(self, octets: bytes) -> bool:
        """Send what may be too much: False when the other side has closed before all was taken."""
        try:
            self.sock.sendall(octets)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def new_id(self) -> int:
        sid, self.next_id = self.next_id, self.next_id + 2
        self.windows[sid] = self.peer.get(INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)
        self.streams[sid] = Answer()
        return sid

    def block(self, fields: Fields, *, huffman: bool = True, never: bool = False) -> bytes:
        """A header block by the connection's encoder: it has to be sent, in this order."""
        triples = [(_bytes(name), _bytes(value), never) for name, value in fields]
        return bytes(self.encoder.encode(triples, huffman))

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        fields: Fields = (),
        *,
        body: bytes | None = None,
        trailers: Fields | None = None,
        end: bool | None = None,
        authority: str = "test",
        scheme: str = "http",
    ) -> int:
        """A request of good manners; its stream. end=False leaves it open behind the head (and the body)."""
        more = body is not None or trailers is not None
        over = not more if end is None else end and not more
        block = self.block([*pseudo(method, path, authority, scheme), *fields])
        sid = self.new_id()
        self.send(headers(sid, block, over))
        if body is not None:
            self.send_data(sid, body, trailers is None and end is not False)
        if trailers is not None:
            self.send(headers(sid, self.block(trailers), True))
        return sid

    def send_head(self, fields: Fields, end: bool = True) -> int:
        """Any fields at all as a new stream's head, past the encoder."""
        sid = self.new_id()
        self.send(headers(sid, literals(fields), end))
        return sid

    def send_data(self, sid: int, body: bytes, end: bool = True) -> None:
        """A body of any size, within the windows; stops when the stream is over."""
        at = 0
        while True:
            left = len(body) - at
            n = min(left, self.window, self.windows[sid], MAX_FRAME)
            if left and n <= 0:
                if self.streams[sid].over:
                    return
                assert self.step() is not None, f"the connection ended with {left} bytes to send"
                continue
            self.window -= n
            self.windows[sid] -= n
            last = n == left
            self.send(data(sid, body[at : at + n], end and last))
            at += n
            if last:
                return

    def cancel(self, sid: int, code: int = CANCEL) -> None:
        self.streams[sid].cancelled = True
        self.send(rst(sid, code))

    # --- in

    def step(self) -> Frame | None:
        """The next frame, taken up; None at the end of the connection."""
        while (size := self._whole()) is None:
            try:
                octets = self.sock.recv(1 << 18)
            except ConnectionError:
                octets = b""
            if not octets:
                self.ended = True
                return None
            self.buf += octets
        n, kind, flags, stream = size
        one = Frame(kind, flags, stream, bytes(self.buf[9 : 9 + n]))
        del self.buf[: 9 + n]
        self.frames.append(one)
        self._take(one)
        return one

    def _whole(self) -> tuple[int, int, int, int] | None:
        if len(self.buf) < 9:
            return None
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", self.buf)
        n = high << 16 | low
        return (n, kind, flags, stream & WINDOW_MOST) if len(self.buf) >= 9 + n else None

    def _take(self, f: Frame) -> None:
        if f.kind == DATA:
            self._on_data(f)
        elif f.kind == HEADERS:
            at, end = 0, len(f.payload)
            if f.flags & PADDED:
                at, end = 1, end - f.payload[0]
            if f.flags & WITH_PRIORITY:
                at += 5
            self._block, self._block_flags = f.payload[at:end], f.flags
        elif f.kind == CONTINUATION:
            self._block += f.payload
        elif f.kind == RST_STREAM:
            self.streams.setdefault(f.stream, Answer()).reset = f.code
        elif f.kind == SETTINGS:
            self._on_settings(f)
        elif f.kind == PING and not f.flags & ACK and self.acknowledge:
            self.answering(ping(f.payload, ACK))
        elif f.kind == GOAWAY:
            self.goaways.append((struct.unpack(">I", f.payload[:4])[0] & WINDOW_MOST, f.code))
        elif f.kind == WINDOW_UPDATE:
            (n,) = struct.unpack(">I", f.payload)
            if f.stream:
                self.windows[f.stream] = self.windows.get(f.stream, 0) + n
            else:
                self.window += n
        if f.kind in (HEADERS, CONTINUATION) and f.flags & END_HEADERS:
            self._on_block(f.stream)

    def answering(self, octets: bytes) -> None:
        """What answers a frame: the other side may have gone."""
        with contextlib.suppress(OSError):
            self.sock.sendall(octets)

    def _on_settings(self, f: Frame) -> None:
        if f.flags & ACK:
            self.settled = True
            return
        for which, value in struct.iter_unpack(">HI", f.payload):
            if which == INITIAL_WINDOW_SIZE:
                change = value - self.peer.get(which, DEFAULT_WINDOW)
                self.windows = {sid: n + change for sid, n in self.windows.items()}
            self.peer[which] = value
        if self.acknowledge:
            self.answering(frame(SETTINGS, ACK))

    def _on_data(self, f: Frame) -> None:
        body = f.payload
        if f.flags & PADDED:
            body = body[1 : len(body) - body[0]]
        answer = self.streams.setdefault(f.stream, Answer())
        if not answer.cancelled:
            assert answer.status and not answer.over, f"DATA out of place on stream {f.stream}"
            answer.body += body
            answer.ended = bool(f.flags & END_STREAM)
        if self.credit and f.payload:
            n = len(f.payload)
            self.answering(window_update(0, n) + (b"" if answer.ended else window_update(f.stream, n)))

    def _on_block(self, sid: int) -> None:
        fields = [(_text(k), _text(v)) for k, v in self.decoder.decode(self._block, raw=True)]
        end = bool(self._block_flags & END_STREAM)
        answer = self.streams.setdefault(sid, Answer())
        if answer.cancelled:
            return
        assert not answer.over, f"HEADERS on stream {sid}, which is over"
        if answer.status:
            assert end, f"a second head on stream {sid}: {fields}"
            answer.trailers = fields
        else:
            assert fields[0][0] == ":status", fields
            status = int(fields[0][1])
            if status < 200:
                assert not end
                answer.interim.append((status, fields[1:]))
                return
            answer.status, answer.fields = status, fields[1:]
        answer.ended = end

    # --- waiting

    def until(self, what: Callable[[], T], name: str = "") -> T:
        """Read until it is true; its value."""
        deadline = time.monotonic() + self.timeout
        while not (value := what()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {name or what}; {self.last_frames()}")
            try:
                one = self.step()
            except TimeoutError:
                raise AssertionError(f"nothing came for {name or what}; {self.last_frames()}") from None
            if one is None and not (value := what()):
                raise AssertionError(f"the connection ended before {name or what}; {self.last_frames()}")
        return value

    def answer(self, sid: int) -> Answer:
        """The whole answer of a stream; a reset is an AssertionError."""
        answer = self.over(sid)
        assert answer.reset is None or answer.ended, f"stream {sid} was reset with {answer.reset}"
        return answer

    def over(self, sid: int) -> Answer:
        """The stream as it is when it is over, one way or the other."""
        answer = self.streams[sid]
        self.until(lambda: answer.over, f"the end of stream {sid}")
        return answer

    def reset(self, sid: int) -> int:
        """The code by which a stream is reset."""
        answer = self.over(sid)
        assert answer.reset is not None, f"stream {sid} ended with {answer.status}"
        return answer.reset

    def get(self, path: str = "/", fields: Fields = (), **options: str) -> Answer:
        return self.answer(self.request("GET", path, fields, **options))

    def goaway(self) -> tuple[int, int]:
        """The newest GOAWAY: (last id, code)."""
        self.until(lambda: self.goaways, "GOAWAY")
        return self.goaways[-1]

    def end(self) -> None:
        """Read to the end of the connection."""
        self.until(lambda: self.ended, "the end of the connection")

    def condemned(self) -> int:
        """The code with which the other side ends this connection; it must close it, too."""
        self.end()
        assert self.goaways, f"closed without GOAWAY; {self.last_frames()}"
        return self.goaways[-1][1]

    def settle(self) -> None:
        """Until the other side's SETTINGS are here and ours acknowledged."""
        self.until(lambda: self.peer and self.settled, "SETTINGS")

    def ping(self, mark: bytes = b"are you?") -> None:
        """Until the other side has seen all that was sent."""
        self.send(ping(mark))
        self.until(
            lambda: any(f.kind == PING and f.flags & ACK and f.payload == mark for f in self.frames[-50:]),
            "PONG",
        )

    def last_frames(self) -> str:
        return f"last frames: {self.frames[-6:]}"

    def close(self) -> None:
        self.sock.close()

    def vanish(self) -> None:
        """RST of TCP."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _text(octets: bytes) -> str:
    return octets.decode("latin-1")


def dial(port: int, *pairs: tuple[int, int], rcvbuf: int = 0, **options: bool) -> Client:
    """A client with prior knowledge; rcvbuf: how little its kernel takes before it reads."""
    sock = socket.socket()
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    sock.settimeout(15)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(sock, *pairs, **options)
