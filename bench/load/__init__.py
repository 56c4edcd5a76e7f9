"""The load: wrk for closed loops, load.c for fixed rates, large answers and handshakes, sockets held idle.

Owns: how a generator is called and what it answers. Must not know: which proxy it talks to.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import build

GRACE_SECONDS = 20.0  # a generator that outlives its time by this much is ended, and its row failed


class LoadFailed(Exception):
    """A socket error, a wrong answer, or a generator that did not end."""


@dataclass(frozen=True)
class Result:
    answered: int
    seconds: float
    latency: dict[str, float] = field(default_factory=dict)  # microseconds: p50 p90 p99 p999 max

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Target:
    """Where a load goes and what a right answer is."""

    port: int
    host: str
    path: str = "/"
    body: int = 1024
    headers: tuple[str, ...] = ()  # more of them, "name: value": wrk and h2load only


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{Path(command[0]).name} did not end") from None


def _own(mode: str, target: Target, seconds: float, connections: int, *extra: str) -> Result:
    numbers = [str(target.port), str(seconds), str(connections), str(target.body)]
    return _reported([str(build.tool("load")), mode, *numbers, target.path, target.host, *extra], seconds)


def grpc(target: Target, seconds: float, connections: int, per_second: int) -> Result:
    """Unary calls in an open loop, over HTTP/2 with prior knowledge."""
    numbers = [str(target.port), str(seconds), str(connections), target.host, str(per_second)]
    return _reported([str(build.tool("grpc")), *numbers], seconds)


def _reported(command: list[str], seconds: float) -> Result:
    done = _run(command, seconds)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise LoadFailed(f"load ended with {done.returncode}: {done.stderr.strip()[:200]}") from None
    if answer["errors"] or not answer["answered"]:
        raise LoadFailed(f"{answer['errors']} errors, first: {answer['error'] or 'no answer at all'}")
    latency = {name: answer[name] for name in ("p50", "p90", "p99", "p999", "max", "mean")}
    return Result(answer["answered"], answer["seconds"], latency)


def closed(target: Target, seconds: float, connections: int) -> Result:
    return _own("closed", target, seconds, connections)


def rate(target: Target, seconds: float, connections: int, per_second: int) -> Result:
    return _own("rate", target, seconds, connections, str(per_second))


def handshakes(target: Target, seconds: float, connections: int, ca: Path, name: str) -> Result:
    return _own("handshake", target, seconds, connections, str(ca), name)


# wrk's summary is for people; the script makes it print numbers. Its counters have no body sizes: they are
# checked before, and by the bytes per answer here.
WRK_SCRIPT = """
done = function(s, l, r)
  io.write(string.format("BENCH %d %d %d %d %d %d %d %d %f %f %f %f %f\\n", s.requests, s.duration, s.bytes,
    s.errors.connect, s.errors.read, s.errors.write, s.errors.status, s.errors.timeout,
    l:percentile(50), l:percentile(90), l:percentile(99), l:percentile(99.9), l.max))
end
"""


def wrk(target: Target, seconds: float, connections: int) -> Result:
    """A closed loop by wrk, or by our own generator where wrk is not installed."""
    program = shutil.which("wrk")
    if program is None and target.headers:
        raise LoadFailed("wrk is not installed: apt-get install wrk")
    if program is None:
        return closed(target, seconds, connections)
    script = build.BUILD_DIR / "wrk.lua"
    script.write_text(WRK_SCRIPT)
    duration = max(1, round(seconds))  # wrk takes whole seconds
    url = f"http://127.0.0.1:{target.port}{target.path}"
    options = ["-t1", f"-c{connections}", f"-d{duration}s", "-s", str(script), "-H", f"Host: {target.host}"]
    options += [word for header in target.headers for word in ("-H", header)]
    done = _run([program, *options, url], duration)
    match = re.search(r"^BENCH (.*)$", done.stdout, re.MULTILINE)
    if not match:
        raise LoadFailed(f"wrk: {(done.stderr or done.stdout).strip()[:200]}")
    numbers = match.group(1).split()
    answered, micros, got = (int(n) for n in numbers[:3])
    errors = [
        f"{count} {kind}"
        for kind, count in zip(
            ("connect", "read", "write", "status", "timeout"), map(int, numbers[3:8]), strict=True
        )
        if count
    ]
    if errors:
        raise LoadFailed(f"wrk errors: {', '.join(errors)}")
    if not answered or got < answered * target.body:
        raise LoadFailed(f"wrk: {answered} answers with {got} bytes")
    latency = dict(zip(("p50", "p90", "p99", "p999", "max"), map(float, numbers[8:13]), strict=True))
    return Result(answered, micros / 1e6, latency)


def h2load(target: Target, seconds: float, connections: int, streams: int) -> Result:
    """A closed loop over HTTP/2 with prior knowledge: so many streams at once on each connection."""
    program = shutil.which("h2load")
    if program is None:
        raise LoadFailed("h2load is not installed: apt-get install nghttp2-client")
    duration = max(1, round(seconds))  # it takes whole seconds
    options = ["-t1", f"-c{connections}", f"-m{streams}", f"-D{duration}", "-H", f":authority: {target.host}"]
    options += [word for header in target.headers for word in ("-H", header)]
    done = _run([program, *options, f"http://127.0.0.1:{target.port}{target.path}"], duration)
    counted = re.search(r"^requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", done.stdout, re.MULTILINE)
    body = re.search(r"\((\d+)\) data$", done.stdout, re.MULTILINE)
    if not counted or not body or "h2c" not in done.stdout:
        raise LoadFailed(f"h2load: {(done.stderr or done.stdout).strip()[:200]}")
    answered, succeeded, failed = map(int, counted.groups())
    if failed or not succeeded or succeeded < answered or int(body[1]) < succeeded * target.body:
        raise LoadFailed(f"h2load: {failed} of {answered} requests failed, {body[1]} bytes")
    return Result(succeeded, float(duration))


@contextmanager
def idle(target: Target, count: int) -> Iterator[int]:
    """So many keep-alive connections, each having made one request, held open."""
    request = f"GET {target.path} HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), 5.0))
            sock.sendall(request)
            got = b""
            while len(got) < target.body or b"\r\n\r\n" not in got:
                more = sock.recv(65536)
                if not more:
                    raise LoadFailed("closed instead of kept alive")
                got += more
            head, _, body = got.partition(b"\r\n\r\n")
            while len(body) < target.body:
                more = sock.recv(65536)
                if not more:
                    raise LoadFailed("closed in the middle of an answer")
                body += more
            if not head.startswith(b"HTTP/1.1 200"):
                raise LoadFailed(f"answered {head[:40]!r}")
        yield count
