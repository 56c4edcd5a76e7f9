"""An HTTP/2 server (cleartext, prior knowledge) made with the `h2` package, which does what a test says.

    def script(request):                 # in a thread of its own, as soon as the head is there
        request.wait_end()
        request.interim(103, [("link", "</x>")])
        request.answer(200, body=b"ok", trailers=[("x-sum", "1")])
    origin = Origin(script)
    origin.requests[0].fields, .body, .trailers, .reset_by; origin.links[0].goaway(last, code)

The package is strict: whatever it finds wrong in what the proxy sends fails the test in close().
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from helpers import h2raw
from helpers.worker import listening

Pairs = Sequence[tuple[str, str]]
SECONDS = 15.0


class Gone(ConnectionError):
    """The stream or the connection is over: a script that wants to go on ends quietly."""


class Request:
    """One stream as the origin sees it, and the ways to answer it."""

    def __init__(self, link: Link, sid: int, fields: Pairs) -> None:
        self.link = link
        self.id = sid
        self.fields = list(fields)
        self.never: set[str] = set()  # names of fields that came never indexed
        self.body = bytearray()
        self.trailers: list[tuple[str, str]] | None = None
        self.ended = False
        self.reset_by: int | None = None  # code of the peer's RST_STREAM

    def __getitem__(self, name: str) -> str:
        (value,) = [v for k, v in self.fields if k == name]
        return value

    def names(self) -> list[str]:
        return [name for name, _ in self.fields]

    def wait(self, what: Callable[[], object], name: str = "what the script waits for") -> None:
        with self.link.changed:
            if not self.link.changed.wait_for(lambda: what() or self.link.over, SECONDS):
                raise TimeoutError(name)
            if not what():
                raise Gone(name)

    def wait_end(self) -> None:
        self.wait(lambda: self.ended or self.reset_by is not None, "the request's end")
        if not self.ended:
            raise Gone("reset")

    def wait_reset(self) -> int:
        self.wait(lambda: self.reset_by is not None, "RST_STREAM")
        assert self.reset_by is not None
        return self.reset_by

    def head(self, status: int, fields: Pairs = (), end: bool = False) -> None:
        octets = _encoded([(":status", str(status)), *fields])
        self.link.say(lambda c: c.send_headers(self.id, octets, end_stream=end))

    def interim(self, status: int, fields: Pairs = ()) -> None:
        self.head(status, fields)

    def data(self, body: bytes, end: bool = False) -> None:
        """Within the windows, waiting for them."""
        at, link = 0, self.link
        while True:
            with link.changed:
                left = len(body) - at
                if left and not link.changed.wait_for(lambda: link.over or self._room(), SECONDS):
                    raise TimeoutError("a window")
                if link.over or self.reset_by is not None:
                    raise Gone("in the middle of the answer")
                n = min(left, self._room() if left else 0)
                part = body[at : at + n]
                at += n
                last = n == left
                link.say(lambda c, part=part, last=last: c.send_data(self.id, part, end_stream=end and last))
            if last:
                return

    def _room(self) -> int:
        if self.reset_by is not None:
            return 1
        return min(self.link.h2.local_flow_control_window(self.id), h2raw.MAX_FRAME)

    def end(self, trailers: Pairs | None = None) -> None:
        if trailers is None:
            self.link.say(lambda c: c.end_stream(self.id))
        else:
            octets = _encoded(trailers)
            self.link.say(lambda c: c.send_headers(self.id, octets, end_stream=True))

    def answer(
        self, status: int = 200, fields: Pairs = (), body: bytes = b"", trailers: Pairs | None = None
    ) -> None:
        """Everything at once."""
        self.head(status, fields, end=not body and trailers is None)
        if body:
            self.data(body, end=trailers is None)
        if trailers is not None:
            self.end(trailers)

    def reset(self, code: int) -> None:
        self.link.say(lambda c: c.reset_stream(self.id, code))

    def raw(self, octets: bytes) -> None:
        """Past the package: malformed answers."""
        self.link.raw(octets)

    def raw_head(self, fields: Sequence[tuple[str | bytes, str | bytes]], end: bool = True) -> None:
        self.raw(h2raw.headers(self.id, h2raw.literals(fields), end))


class Link:
    """One connection that was accepted."""

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.origin = origin
        self.sock = sock
        self.changed = threading.Condition(threading.RLock())
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False, header_encoding="latin-1", validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )  # fmt: skip
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=dict(origin.settings))
        self.streams: dict[int, Request] = {}
        self.told = False  # the peer has acknowledged our SETTINGS
        self.goaways: list[int] = []  # codes of the peer's
        self.over = False

    def say(self, what: Callable[[h2.connection.H2Connection], object]) -> None:
        with self.changed:
            try:
                what(self.h2)
            except h2.exceptions.StreamClosedError:
                raise Gone("the stream is closed") from None
            except h2.exceptions.ProtocolError:
                if self.over or self.goaways or any(s.reset_by is not None for s in self.streams.values()):
                    raise Gone("too late") from None
                raise
            self.sock.sendall(self.h2.data_to_send())

    def raw(self, octets: bytes) -> None:
        with self.changed:
            self.sock.sendall(self.h2.data_to_send() + octets)

    def goaway(self, last: int, code: int = 0) -> None:
        """Past the package, which would take nothing more: the streams up to `last` go on."""
        self.raw(h2raw.goaway(last, code))

    def set(self, values: Mapping[int, int]) -> None:
        self.say(lambda c: c.update_settings(dict(values)))

    def close(self, reset: bool = False) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR) if not reset else None
        self.sock.close()

    def running(self) -> int:
        """Streams that are open on either side."""
        return self.h2.open_inbound_streams

    # --- its thread

    def run(self) -> None:
        try:
            self.h2.initiate_connection()
            if self.origin.limit:  # past the package, which would end the connection
                self.raw(h2raw.settings((h2raw.MAX_CONCURRENT_STREAMS, self.origin.limit)))
            self.say(lambda c: None)
            while octets := self.sock.recv(1 << 18):
                with self.changed:
                    try:
                        for event in self.h2.receive_data(octets):
                            self._on(event)
                    finally:  # also the GOAWAY of a peer that breaks the protocol
                        self.sock.sendall(self.h2.data_to_send())
                    self.changed.notify_all()
        except (OSError, Gone):
            pass
        except BaseException as wrong:
            if not self.origin.tolerant:
                self.origin.failure = wrong
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()
            self.sock.close()

    def _on(self, event: h2.events.Event) -> None:
        origin = self.origin
        if isinstance(event, h2.events.RequestReceived):
            request = Request(self, event.stream_id, [(_text(k), _text(v)) for k, v in event.headers])
            self.streams[event.stream_id] = request
            request.never = {_text(h[0]) for h in event.headers if not getattr(h, "indexable", True)}
            request.ended = event.stream_ended is not None
            if origin.limit and self.running() > origin.limit:
                assert not self.told, f"more than {origin.limit} streams, against our SETTINGS"
                origin.refused += 1
                self.h2.reset_stream(event.stream_id, h2raw.REFUSED_STREAM)
                del self.streams[event.stream_id]
                return
            origin.requests.append(request)
            if origin.inline is not None:
                origin.inline(request)
            elif origin.script is not None:
                threading.Thread(target=self._script, args=(request,), daemon=True).start()
            elif request.ended:
                self._default(request)
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.streams:
                self.streams[event.stream_id].body += event.data
            if origin.credit and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif getattr(event, "stream_id", 0) and event.stream_id not in self.streams:
            pass  # refused
        elif isinstance(event, h2.events.TrailersReceived):
            self.streams[event.stream_id].trailers = [(_text(k), _text(v)) for k, v in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            request = self.streams[event.stream_id]
            before, request.ended = request.ended, True
            if not before and origin.script is None and origin.inline is None:
                self._default(request)
        elif isinstance(event, h2.events.StreamReset):
            if event.remote_reset:
                self.streams[event.stream_id].reset_by = int(event.error_code or 0)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(int(event.error_code or 0))
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.told = True

    def _default(self, request: Request) -> None:
        status, fields, body = self.origin.reply

        def answer() -> None:
            with contextlib.suppress(OSError):
                request.answer(status, fields, body)

        if self.h2.local_flow_control_window(request.id) >= len(body):
            answer()
        else:  # it has to wait
            threading.Thread(target=answer, daemon=True).start()

    def _script(self, request: Request) -> None:
        try:
            assert self.origin.script is not None
            self.origin.script(request)
        except (OSError, Gone):
            pass
        except BaseException as wrong:
            self.origin.failure = wrong


class Origin:
    """A server on a port of its own. Without a script a request is answered with `reply` at its end."""

    def __init__(
        self,
        script: Callable[[Request], None] | None = None,
        *,
        inline: Callable[[Request], None] | None = None,
        settings: Mapping[int, int] | None = None,
        credit: bool = True,
        limit: int = 0,
        tolerant: bool = False,
    ) -> None:
        """inline: a script that must not wait, run by the connection's own thread. credit=False: windows stay
        as they are. limit: of concurrent streams; what is above it is refused. tolerant: what the proxy does
        wrong in the package's eyes is no failure (for a test that breaks the protocol itself)."""
        self.script = script
        self.inline = inline
        self.settings = {
            h2raw.MAX_CONCURRENT_STREAMS: 1000,
            h2raw.INITIAL_WINDOW_SIZE: 65535,
            **(settings or {}),
        }
        self.credit = credit
        self.limit = limit
        self.refused = 0
        self.tolerant = tolerant
        self.reply: tuple[int, Pairs, bytes] = (200, [("content-type", "text/plain")], b"ok")
        self.requests: list[Request] = []
        self.links: list[Link] = []
        self.failure: BaseException | None = None
        self.sock = listening()
        self.port: int = self.sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self.links)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self.sock.accept()[0]
                sock.settimeout(60)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(self, sock)
                self.links.append(link)
                threading.Thread(target=link.run, daemon=True).start()

    def wait(self, what: Callable[[], object], name: str = "the origin") -> None:
        deadline = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < deadline, f"waited in vain for {name}"
            time.sleep(0.005)

    def wait_requests(self, n: int) -> None:
        self.wait(lambda: len(self.requests) >= n, f"{n} requests; {len(self.requests)} came")

    def close(self) -> None:
        self.sock.close()
        for link in self.links:
            link.close()
        if self.failure is not None:
            raise self.failure


def _encoded(fields: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def _text(octets: bytes | str) -> str:
    return octets if isinstance(octets, str) else octets.decode("latin-1")
