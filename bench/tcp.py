"""TCP through a proxy: `python -m bench.tcp [--rounds N] [--seconds S] [--connections C]`.

Owns: the rows "send" (client to upstream) and "take" (upstream to
client) over plain TCP, and their bar: fastmesh at least 0.9 x the byte forwarder's throughput and at most
1.1 x its CPU per MiB. Peers alternate within a round; each row starts its proxy anew. Must not know: HTTP.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import build, procs
from bench.peers.base import which
from bench.peers.fastmesh import Fastmesh

MIB = 1 << 20
THROUGHPUT, CPU = 0.9, 1.1  # the bar, against the floor

EDGE = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: bench}}
spec: {{servers: [{{port: {{number: {listen}, name: tcp, protocol: TCP}}, hosts: ["*"], bind: 127.0.0.1}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: all}}
spec: {{hosts: ["*"], gateways: [bench], tcp: [{{route: [{{destination: {{host: sink.local}}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: sink}}
spec:
  hosts: [sink.local]
  ports: [{{number: 80, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {upstream}}}}}]
"""
HAPROXY = """global
  nbthread 1
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen tcp
  bind 127.0.0.1:{listen}
  server sink 127.0.0.1:{upstream}
"""

Command = Callable[[int, int, Path], list[str]]


def floor(listen: int, upstream: int, directory: Path) -> list[str]:
    return [str(build.tool("floor")), str(listen), str(upstream)]


def fastmesh(listen: int, upstream: int, directory: Path) -> list[str]:
    (directory / "edge.yaml").write_text(EDGE.format(listen=listen, upstream=upstream))
    admin = f"127.0.0.1:{procs.free_port()}"
    executable = str(Fastmesh().find())
    return [
        executable, "edge", "--config", str(directory / "edge.yaml"), "--concurrency", "1", "--admin", admin
    ]  # fmt: skip


def haproxy(listen: int, upstream: int, directory: Path) -> list[str]:
    (directory / "haproxy.cfg").write_text(HAPROXY.format(listen=listen, upstream=upstream))
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def peers() -> dict[str, Command]:
    found: dict[str, Command] = {"floor": floor}
    if Fastmesh().find() is not None:
        found["fastmesh"] = fastmesh
    if which("haproxy") is not None:
        found["haproxy"] = haproxy
    return found


def stream(*args: object) -> list[str]:
    return [str(build.tool("stream")), *map(str, args)]


def measure(command: Command, way: str, seconds: float, connections: int) -> tuple[float, float]:
    """(MiB a second, CPU microseconds of the proxy's processes for each MiB) of one row."""
    proxy_core, load_core = procs.cores()
    with tempfile.TemporaryDirectory(prefix="bench-tcp-") as name:
        directory = Path(name)
        log = directory / "log"
        listen, upstream = procs.free_port(), procs.free_port()
        kind = "sink" if way == "send" else "source"
        backend = procs.spawn(stream(kind, upstream), load_core, log)
        proxy = procs.spawn(command(listen, upstream, directory), proxy_core, log)
        try:
            ready(listen, "check" if way == "send" and command is not floor else way, log)
            pids = procs.tree([proxy.pid])
            procs.settle(pids)
            run(way, listen, min(1.0, seconds / 2), connections)  # warm
            before = sum(procs.cpu_ns(pids).values())
            moved, took = run(way, listen, seconds, connections)
            spent = sum(procs.cpu_ns(pids).values()) - before
        finally:
            for process in (proxy, backend):
                process.terminate()
            for process in (proxy, backend):
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    return moved / MIB / (took / 1e9), spent / 1000 / (moved / MIB)


def ready(port: int, way: str, log: Path, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while subprocess.run(stream(way, port, 0.01, 1), capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing answers at {port}: {procs.tail(log)}")
        time.sleep(0.1)


def run(way: str, port: int, seconds: float, connections: int) -> tuple[int, int]:
    _, load_core = procs.cores()
    command = ["taskset", "-c", str(load_core), *stream(way, port, seconds, connections)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: {done.stderr.strip()}")
    moved, took = done.stdout.split()
    return int(moved), int(took)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tcp", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    found = peers()
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for _ in range(args.rounds):
        for way in ("send", "take"):
            for name, command in found.items():
                row = measure(command, way, args.seconds, args.connections)
                figures.setdefault(way, {}).setdefault(name, []).append(row)
    good = True
    for way, rows in figures.items():
        base = [statistics.median(values) for values in zip(*rows["floor"], strict=True)]
        print(f"{way}: {args.connections} connections")
        for name, row in rows.items():
            rate, cpu = (statistics.median(values) for values in zip(*row, strict=True))
            spread = f"{min(c for _, c in row):.0f}-{max(c for _, c in row):.0f}"
            print(f"  {name:9} {rate:8.0f} MiB/s ({rate / base[0]:.2f})  "
                  f"{cpu:6.0f} us/MiB ({cpu / base[1]:.2f}; {spread})")  # fmt: skip
            if name == "fastmesh" and (rate < THROUGHPUT * base[0] or cpu > CPU * base[1]):
                good = False
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    print(f"bar ({THROUGHPUT} x throughput, {CPU} x CPU of the floor): {'kept' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
