"""Writes the access log: records out of the workers' rings, as text in Envoy's default format or as JSON.

Owns the file and what could not be written yet. A line that cannot be written (full disk, a reader that does
not read) is dropped and counted: the log never holds up anything, neither the workers nor the agent.
"""

from __future__ import annotations

import os
import select
import time
from _json import encode_basestring_ascii
from stat import S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastmesh.agent.loop import Loop
    from fastmesh.supervisor.log import Log

    Record = dict[str, Any]

# After the first record of a silence this long is waited for others, so that one wake-up writes many.
BATCH_SECONDS = 0.01
BATCH_RECORDS = 500
# What a slow reader of a pipe may leave unread here; and what a pipe that polls writable surely takes
# (PIPE_BUF).
BUFFER_BYTES = 1 << 20
PIECE_BYTES = 4096
# A file that could not be opened or written is tried again this often.
RETRY_SECONDS = 5.0

TCP = 255  # LOG_TCP: `minor` of a TCP session's record

# By number, in Envoy's spelling.
GRPC_STATUS = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)

_QUOTES = str.maketrans({"\\": "\\\\", '"': '\\"'})


def flag_letters(flags: int) -> str:
    """Envoy's letters of a record's response flags; an empty string for none."""
    from fastmesh._core.shm.segment import FLAG_NAMES

    if not flags:
        return ""
    return ",".join(letters for bit, letters in FLAG_NAMES.items() if flags & bit)


def escaped(text: str) -> str:
    """Text of a client inside quotes: nothing in it can end the quotes or the line."""
    if not text:
        return "-"
    if '"' in text or "\\" in text:
        text = text.translate(_QUOTES)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def start_time(wall_ns: int) -> str:
    """2026-11-23T08:00:00.123Z"""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1_000_000:03d}Z"


def protocol(r: Record) -> str:
    """What the client spoke."""
    if r["minor"] == TCP:
        return "-"
    return "HTTP/2" if r["minor"] == 2 else f"HTTP/1.{r['minor']}"


def grpc_name(found: int) -> str | None:
    """A record's gRPC status (one more than its number, 0 for none) as Envoy writes GRPC_STATUS: by name."""
    if not found:
        return None
    return GRPC_STATUS[found - 1] if found <= len(GRPC_STATUS) else str(found - 1)


def text_line(r: Record) -> str:
    """Envoy's default format."""
    service_time = r["upstream_us"] // 1000 if r["upstream_host"] and r["upstream_us"] else "-"
    return (
        f"[{start_time(r['start_wall_ns'])}] "
        f'"{escaped(r["method"])} {escaped(r["path"])} {protocol(r)}" '
        f"{r['status']} {flag_letters(r['flags']) or '-'} {r['rx_bytes']} {r['tx_bytes']} "
        f'{r["duration_us"] // 1000} {service_time} "{escaped(r["x_forwarded_for"])}" '
        f'"{escaped(r["user_agent"])}" "{escaped(r["request_id"])}" "{escaped(r["authority"])}" '
        f'"{escaped(r["upstream_host"])}"\n'
    )


def json_line(r: Record) -> str:
    """The field names of Istio's JSON access log, and a few of ours behind them."""
    address = r["peer_addr"]
    remote = f"[{address}]:{r['peer_port']}" if ":" in address else f"{address}:{r['peer_port']}"
    upstream = bool(r["upstream_host"])
    fields: dict[str, str | int | None] = {
        "start_time": start_time(r["start_wall_ns"]),
        "method": r["method"],
        "path": r["path"],
        "protocol": protocol(r) if r["minor"] != TCP else None,
        "response_code": r["status"],
        "grpc_status": grpc_name(r["grpc"]),
        "response_flags": flag_letters(r["flags"]) or "-",
        "response_code_details": r["details"],
        "bytes_received": r["rx_bytes"],
        "bytes_sent": r["tx_bytes"],
        "duration": r["duration_us"] // 1000,
        "upstream_service_time": r["upstream_us"] // 1000 if upstream and r["upstream_us"] else None,
        "x_forwarded_for": r["x_forwarded_for"],
        "user_agent": r["user_agent"],
        "request_id": r["request_id"],
        "authority": r["authority"] if r["minor"] != TCP else None,
        "requested_server_name": r["authority"] if r["minor"] == TCP else None,
        "upstream_host": r["upstream_host"],
        "upstream_cluster": r["upstream_cluster"],
        "downstream_remote_address": remote if address else None,
        "route_name": r["route_name"],
        "upstream_request_attempt_count": r["attempts"],
        "peer_uri_san": r["peer"],
        "trace_id": r["trace_id"] if r["trace_id"].strip("0") else None,
        "duration_us": r["duration_us"],
        "upstream_us": r["upstream_us"] if upstream else None,
        "hop_us": r["hop_us"],
    }
    if r["authz"]:
        words = ((1, "audited"), (2, "dry_run_allowed"), (4, "dry_run_denied"))
        fields["authz"] = ",".join(word for bit, word in words if r["authz"] & bit)
    pairs = []
    for name, value in fields.items():
        if value is None or value == "":
            pairs.append(f'"{name}": null')
        elif isinstance(value, str):
            pairs.append(f'"{name}": {encode_basestring_ascii(value)}')
        else:
            pairs.append(f'"{name}": {value}')
    return "{" + ", ".join(pairs) + "}\n"


class AccessLog:
    """Moves records from shared memory to a file descriptor."""

    def __init__(self, loop: Loop, segment: Any, path: str, form: str, log: Log) -> None:
        self.written = 0
        self.dropped = 0
        self._loop = loop
        self._segment = segment
        self._path = path
        self._line = json_line if form == "json" else text_line
        self._log = log
        self._fd = -1
        self._regular = False
        self._buffer = b""
        self._retry_at = 0.0
        self._complained = False
        self._waiting = False  # for a full pipe
        self._poll = select.poll()
        self._open()
        loop.add_reader(segment.agent_fd, self._woken)
        loop.call_soon(self._drain)

    def reopen(self) -> None:
        """The file was moved away (log rotation): begin a new one."""
        if self._path != "-":
            self._close()
            self._retry_at = 0.0
            self._open()

    def flush(self) -> None:
        """Write what the rings hold now; for the end of the process."""
        while records := self._segment.log_records(BATCH_RECORDS):
            self._write(records)

    def _open(self) -> None:
        try:
            if self._path == "-":
                self._fd = 1
            else:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            self._regular = S_ISREG(os.fstat(self._fd).st_mode)
            self._poll.register(self._fd, select.POLLOUT)
        except OSError as error:
            self._failed(error)

    def _close(self) -> None:
        if self._fd >= 0:
            if self._waiting:
                self._waiting = False
                self._loop.remove_writer(self._fd)
            self._poll.unregister(self._fd)
            if self._fd != 1:
                os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError) -> None:
        self._retry_at = self._loop.time() + RETRY_SECONDS
        if not self._complained:
            self._complained = True
            self._log.warning(f"access log {self._path}: {error.strerror}; lines are dropped until it works")

    def _woken(self) -> None:
        os.eventfd_read(self._segment.agent_fd)
        self._loop.call_later(BATCH_SECONDS, self._drain)

    def _drain(self) -> None:
        records = self._segment.log_records(BATCH_RECORDS)
        if records:
            self._write(records)
            self._loop.call_soon(self._drain)
        elif not self._segment.arm():
            self._loop.call_later(BATCH_SECONDS, self._drain)

    def _writable(self) -> None:
        """A pipe that was full takes more."""
        self._write([])
        if not self._buffer and self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)

    def _write(self, records: list[Record]) -> None:
        if self._fd < 0 and self._loop.time() >= self._retry_at:
            self._open()
        if self._fd < 0 or len(self._buffer) > BUFFER_BYTES:
            self.dropped += len(records)
            records = []
        if self._fd < 0:
            return
        data = self._buffer + "".join(map(self._line, records)).encode("utf-8", "backslashreplace")
        whole, self._buffer = data, b""
        try:
            while data:
                if self._regular:
                    data = data[os.write(self._fd, data) :]
                elif self._poll.poll(0):
                    data = data[os.write(self._fd, data[:PIECE_BYTES]) :]
                else:
                    # A timer would be too slow, and a terminal's descriptor must not become non-blocking.
                    self._buffer = data
                    if not self._waiting:
                        self._waiting = True
                        self._loop.add_writer(self._fd, self._writable)
                    break
        except OSError as error:
            lost = data.count(b"\n")
            self.dropped += lost
            self.written += len(records) - lost  # the buffer's lines had been counted
            done = len(whole) - len(data)
            self._buffer = b"\n" if done and whole[done - 1] != 10 else b""  # ends the line that was cut
            if self._regular:
                self._close()
            self._failed(error)
            return
        self.written += len(records)
        if self._complained and not self._buffer:
            self._complained = False
            self._log.info(f"access log {self._path}: works again", dropped=self.dropped)
