"""agent/accesslog.py: the two formats, and a log that cannot be written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.agent.accesslog import AccessLog, json_line, text_line
from fastmesh.agent.loop import Loop
from fastmesh.supervisor.log import Log

RECORD: dict[str, Any] = {
    "status": 200, "minor": 1, "direction": 1, "flags": 0, "attempts": 1, "grpc": 0, "authz": 0,
    "start_wall_ns": 1_460_751_620_310_000_000, "duration_us": 226_999, "upstream_us": 100_500, "hop_us": 300,
    "rx_bytes": 154, "tx_bytes": 7, "security": 0, "peer_port": 5, "peer_addr": "10.0.35.28",
    "trace_id": "0" * 32, "method": "POST", "path": "/api/v1/locations", "authority": "locations",
    "user_agent": "nsq2http", "x_forwarded_for": "10.0.35.28",
    "request_id": "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2", "upstream_host": "10.0.2.1:80",
    "upstream_cluster": "outbound|80||l", "route_name": "", "details": "via_upstream", "peer": "",
}  # fmt: skip


class FakeSegment:
    """A ring that holds what it is given."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.agent_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def log_records(self, most: int) -> list[dict[str, Any]]:
        taken, self.records = self.records[:most], self.records[most:]
        return taken

    def arm(self) -> bool:
        return not self.records

    def add(self, *paths: str) -> None:
        self.records += [{**RECORD, "path": path} for path in paths]
        os.eventfd_write(self.agent_fd, 1)


@pytest.fixture
def loop() -> Loop:
    def failed(error: BaseException) -> None:
        raise AssertionError from error

    return Loop(failed)


def turn(loop: Loop, seconds: float = 0.2) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def until(loop: Loop, condition: Any) -> None:
    """Run the loop until the condition holds."""

    def look() -> None:
        if condition():
            loop.stop()
        else:
            loop.call_later(0.005, look)

    late = loop.call_later(10, loop.stop)
    look()
    loop.run()
    late.cancel()
    assert condition()


def test_the_text_is_envoys_default_format() -> None:
    # The example of Envoy's documentation of its default format.
    assert text_line(RECORD) == (
        '[2016-04-15T20:20:20.310Z] "POST /api/v1/locations HTTP/1.1" 200 - 154 7 226 100 "10.0.35.28" '
        '"nsq2http" "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2" "locations" "10.0.2.1:80"\n'
    )


def test_what_is_missing_is_a_dash_in_text_and_null_in_json() -> None:
    bare = {**RECORD, "user_agent": "", "upstream_host": "", "x_forwarded_for": "", "flags": 8, "status": 404}
    assert ' 404 NR 154 7 226 - "-" "-" ' in text_line(bare)
    assert text_line(bare).endswith('"locations" "-"\n')
    entry = json.loads(json_line(bare))
    assert entry["user_agent"] is None and entry["upstream_host"] is None
    assert entry["response_flags"] == "NR"
    assert entry["upstream_service_time"] is None and entry["trace_id"] is None


@pytest.mark.parametrize(("minor", "text"), [(0, "HTTP/1.0"), (1, "HTTP/1.1"), (2, "HTTP/2")])
def test_the_version_is_the_clients(minor: int, text: str) -> None:
    record = {**RECORD, "minor": minor}
    assert f'"POST /api/v1/locations {text}" 200' in text_line(record)
    assert json.loads(json_line(record))["protocol"] == text


@pytest.mark.parametrize(
    ("grpc", "name"),
    [(0, None), (1, "OK"), (2, "Canceled"), (15, "Unavailable"), (17, "Unauthenticated"), (18, "17")],
)
def test_a_grpc_status_is_named_as_envoy_names_it(grpc: int, name: str | None) -> None:
    assert json.loads(json_line({**RECORD, "grpc": grpc}))["grpc_status"] == name


def test_several_flags() -> None:
    assert " 503 UF,URX " in text_line({**RECORD, "status": 503, "flags": 2 | 32})


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_that_a_client_sends_can_forge_a_line(path: str, agent: str) -> None:
    record = {**RECORD, "path": path or "/", "user_agent": agent}
    line = text_line(record)
    assert line.isascii() or line[:-1].isprintable()
    assert line.count("\n") == 1 and "\r" not in line
    # Each quote that a client sent is escaped: the number of bare ones is that of the format.
    bare = line.replace("\\\\", "").replace('\\"', "")
    assert bare.count('"') == 12
    entry = json.loads(json_line(record))
    assert entry["path"] == (path or "/")
    assert json_line(record).count("\n") == 1


def test_lines_are_written_as_records_come(loop: Loop, tmp_path: Path) -> None:
    segment = FakeSegment()
    segment.add("/before")
    log = AccessLog(loop, segment, str(tmp_path / "log"), "text", Log("t", fd=-1))
    until(loop, lambda: log.written == 1)
    segment.add(*(f"/{i}" for i in range(1200)))
    until(loop, lambda: log.written == 1201)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1201 and "/1199 " in lines[-1]


def test_a_pipe_that_nobody_reads_holds_up_nothing(loop: Loop, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    segment = FakeSegment()
    log = AccessLog(loop, segment, str(fifo), "text", Log("t", fd=-1))
    for _ in range(40):
        segment.add(*["/x" * 400] * 200)
        until(loop, lambda: not segment.records)
    assert log.dropped > 0
    # It is read again: what was kept arrives, whole lines of it.
    got = b""
    deadline = loop.call_later(10, loop.stop)

    def drain() -> None:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += os.read(reader, 65536)
        if log._buffer:
            loop.call_later(0.001, drain)
        else:
            loop.stop()

    drain()
    loop.run()
    deadline.cancel()
    try:
        while part := os.read(reader, 65536):
            got += part
    except BlockingIOError:
        pass
    assert got.endswith(b"\n")
    assert all(line.startswith(b"[") and line.endswith(b'"') for line in got.splitlines())
    assert log.written == got.count(b"\n")


def test_a_file_that_cannot_be_opened_is_tried_again(loop: Loop, tmp_path: Path) -> None:
    segment = FakeSegment()
    path = tmp_path / "missing" / "log"
    log = AccessLog(loop, segment, str(path), "text", Log("t", fd=-1))
    segment.add("/lost")
    until(loop, lambda: log.dropped == 1)
    path.parent.mkdir()
    log.reopen()
    segment.add("/kept")
    until(loop, lambda: log.written == 1)
    assert "/kept" in path.read_text() and "/lost" not in path.read_text()
