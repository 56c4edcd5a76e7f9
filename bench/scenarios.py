"""The scenarios: what is started, checked, loaded and measured for one row.

Owns: the meaning of every figure. Must not know: rounds, tables, bars.
Every row starts its proxies fresh, checks them, warms them, and measures one window.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from bench import check, load, machine, procs
from bench.backends import Backends
from bench.certs import SERVER_NAME, Certs
from bench.compare import DISTURBED_PERCENT
from bench.load import held
from bench.mesh import CLIENT, SERVER, Mesh, Sidecar, mesh
from bench.peers import CHAINS, Chain, Fastmesh, Hop, Peer, Service, Site, Version
from bench.peers.fastmesh import Routes

READY_SECONDS = 20.0
FAILURES = (
    check.CheckFailed,
    load.LoadFailed,
    OSError,
    subprocess.SubprocessError,
)  # they fail a row, not a run
ROUTES_READY_SECONDS = 120.0  # compiling 10,000 routes from YAML is not what is measured


@dataclass(frozen=True)
class Settings:
    seconds: float = 3.0
    warm: float = 0.5
    connections: int = 16
    h2_connections: int = 4
    h2_streams: int = 32
    handshake_connections: int = 8
    rate: int = 1000
    idle_connections: int = 2000
    proxy_core: int = 0
    load_core: int = 1
    turns: int = 8  # of what is measured in turns (paired.py)
    repeats: int = 1
    repeat_seconds: float = (
        240.0  # for repeats in all: on a machine that is never quiet a run still ends in time
    )


@dataclass
class Row:
    scenario: str
    peer: str
    round: int
    status: str = "ok"  # ok, FAILED, missing
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disturbance: dict[str, float] = field(default_factory=dict)

    def asdict(self) -> dict[str, object]:
        return asdict(self)

    def disturbed_by(self, seen: machine.Disturbance) -> None:
        """Keeps the worst of the row's windows."""
        for name, share in seen.asdict().items():
            self.disturbance[name] = max(share, self.disturbance.get(name, 0.0))

    @property
    def disturbed(self) -> bool:
        return any(share > DISTURBED_PERCENT for share in self.disturbance.values())


@dataclass
class Bench:
    """One run's site: directory, certificates, backend, settings."""

    directory: Path
    certs: Certs
    backends: Backends
    settings: Settings
    direct: dict[str, float] = field(default_factory=dict)  # this round's latency without a proxy
    before: Path | None = None  # another build of fastmesh
    starts: int = 0
    repeating: float = 0.0  # seconds that repeats have taken

    def _start(self, peer: Peer, running: procs.Running, hop: Hop, upstream: int) -> int:
        self.starts += 1
        directory = self.directory / f"{self.starts:04d}-{peer.name}-{hop.name}"
        directory.mkdir()
        listen = procs.free_port()
        log = directory / "output.log"
        command = peer.command(hop, Site(listen, upstream, directory, self.certs))
        running.roots.append(procs.spawn(command, self.settings.proxy_core, log))
        running.logs.append(log)
        return listen

    @contextmanager
    def proxy(self, peer: Peer, shape: str) -> Iterator[tuple[procs.Running, list[str]]]:
        """A fresh proxy or pair (shape: of peers.CHAINS), ready and checked; with what the checks noticed."""
        chain = CHAINS[shape]
        first, last = chain.hops[0], chain.hops[-1]
        running, notes = procs.Running(0), []
        ready = ROUTES_READY_SECONDS if isinstance(peer, Fastmesh) and peer.routes else READY_SECONDS
        try:
            upstream = self.backends.port(chain)
            if first is not last:
                inner = upstream = running.inner_port = self._start(peer, running, last, upstream)
                check.until(lambda: check.listening(inner), ready, running.dead)
            running.port = self._start(peer, running, first, upstream)
            port, host = running.port, peer.host()
            if shape == "tls":
                notes.append(
                    check.until(lambda: check.tls_server(port, host, self.certs), ready, running.dead)
                )
            elif chain.service is not Service.WEB:
                check.until(lambda: check.listening(port), ready, running.dead)
            elif first.down is Version.H2:
                check.until(lambda: check.prior_knowledge(port, peer.path(), host), ready, running.dead)
            else:
                check.until(lambda: check.plain(port, peer.path(), host), ready, running.dead)
            if first is not last:
                notes.append(check.mutual_inner(running.inner_port, host, self.certs))
            procs.settle(running.pids())
            yield running, notes
            if ended := running.dead():
                raise check.CheckFailed(f"a proxy died under load: {ended}")
        finally:
            running.stop()

    def watch(self) -> machine.Watch:
        return machine.Watch(self.settings.proxy_core, self.settings.load_core, self.backends.pids())

    def target(self, running: procs.Running, peer: Peer, large: bool = False) -> load.Target:
        if large:
            return load.Target(running.port, peer.host(), "/large", check.LARGE)
        return load.Target(running.port, peer.host(), peer.path(), check.SMALL)

    def window(
        self, row: Row, running: procs.Running, run: Callable[[], load.Result]
    ) -> tuple[load.Result, float]:
        """One measured window: the load's result and the proxies' CPU time in it, microseconds."""
        before = procs.cpu_ns(running.pids())
        if not before:
            raise OSError("no CPU time to read: this kernel has no /proc/PID/task/TID/schedstat")
        watch, begun = self.watch(), time.monotonic()
        result = run()
        seconds = time.monotonic() - begun
        after = procs.cpu_ns(running.pids())
        spent = sum(ns - before.get(thread, 0) for thread, ns in after.items())
        row.disturbed_by(watch.over(spent))
        if gone := len(before.keys() - after.keys()):
            row.notes.append(f"{gone} threads ended in the window: their CPU time is missing")
        row.figures["busy"] = round(100 * spent / 1e9 / seconds, 1)
        return result, spent / 1e3


def _closed(bench: Bench, peer: Peer, row: Row, shape: str, clients: int = 16) -> None:
    settings = bench.settings
    with bench.proxy(peer, shape) as (running, notes):
        row.notes += notes
        target = bench.target(running, peer)
        load.closed(target, settings.warm, clients)
        result, cpu = bench.window(row, running, lambda: load.wrk(target, settings.seconds, clients))
        row.figures["cpu_us"] = cpu / result.answered
        row.figures["per_second"] = result.per_second
        row.figures.update(result.latency)


def _multiplexed(bench: Bench, peer: Peer, row: Row, shape: str) -> None:
    settings = bench.settings
    with bench.proxy(peer, shape) as (running, notes):
        row.notes += notes
        target = bench.target(running, peer)

        def run(seconds: float) -> load.Result:
            return load.h2load(target, seconds, settings.h2_connections, settings.h2_streams)

        run(settings.warm)
        result, cpu = bench.window(row, running, lambda: run(settings.seconds))
        row.figures["cpu_us"] = cpu / result.answered
        row.figures["per_second"] = result.per_second


def h2_h1(bench: Bench, peer: Peer, row: Row) -> None:
    _multiplexed(bench, peer, row, "h2-h1")


def h2_h2(bench: Bench, peer: Peer, row: Row) -> None:
    _multiplexed(bench, peer, row, "h2-h2")


def link_16(bench: Bench, peer: Peer, row: Row) -> None:
    """A pair with HTTP/2 between the two; fastmesh's are edges: the mesh link is sidecar_link's."""
    _closed(bench, peer, row, "pair-h2", 16)


def link_64(bench: Bench, peer: Peer, row: Row) -> None:
    _closed(bench, peer, row, "pair-h2", 64)


def h1(bench: Bench, peer: Peer, row: Row) -> None:
    _closed(bench, peer, row, "plain")


def pair(bench: Bench, peer: Peer, row: Row) -> None:
    _closed(bench, peer, row, "pair")


def direct(bench: Bench, number: int) -> Row:
    """The same fixed rate without a proxy, for this round: what is subtracted."""
    settings, target = bench.settings, load.Target(bench.backends.http1, SERVER_NAME)
    best: Row | None = None
    bench.direct = {}
    for _attempt in range(1 + settings.repeats):
        row = Row("rate-direct", "direct", number)
        try:
            load.rate(target, settings.warm, settings.connections, settings.rate)
            watch = bench.watch()
            result = load.rate(target, settings.seconds, settings.connections, settings.rate)
        except FAILURES as problem:
            row.status, row.error = "FAILED", str(problem)
            return row
        row.figures.update(result.latency)
        row.disturbed_by(watch.over(0))
        if best is None or _noise(row) < _noise(best):
            best = row
        if not best.disturbed:
            break
    assert best is not None
    bench.direct = best.figures
    return best


def _rate(bench: Bench, peer: Peer, row: Row, shape: str, hops: int) -> None:
    settings = bench.settings
    if not bench.direct:
        raise load.LoadFailed("there is no run without a proxy to subtract")
    with bench.proxy(peer, shape) as (running, notes):
        row.notes += notes
        target = bench.target(running, peer)
        load.rate(target, settings.warm, settings.connections, settings.rate)
        result, cpu = bench.window(
            row, running, lambda: load.rate(target, settings.seconds, settings.connections, settings.rate)
        )
        row.figures["cpu_us"] = cpu / result.answered
        for name, value in result.latency.items():
            row.figures[name] = value
            row.figures[f"added_{name}"] = (value - bench.direct[name]) / hops


def grpc_rate(bench: Bench, peer: Peer, row: Row) -> None:
    """Unary gRPC, HTTP/2 on both sides; the backend asked directly just before is subtracted."""
    settings = bench.settings
    with bench.proxy(peer, "grpc") as (running, notes):
        row.notes += notes
        direct = load.Target(bench.backends.port(CHAINS["grpc"]), peer.host())
        target = bench.target(running, peer)

        def run(asked: load.Target, seconds: float) -> load.Result:
            return load.grpc(asked, seconds, settings.connections, settings.rate)

        run(direct, settings.warm)
        base = run(direct, settings.seconds)
        run(target, settings.warm)
        result, cpu = bench.window(row, running, lambda: run(target, settings.seconds))
        row.figures["cpu_us"] = cpu / result.answered
        for name, value in result.latency.items():
            row.figures[name] = value
            row.figures[f"added_{name}"] = value - base.latency[name]


def h2_memory(bench: Bench, peer: Peer, row: Row) -> None:
    """What an idle HTTP/2 connection adds, and what a request in flight without a body does: the stream on
    either side, and its share of the upstream connections. The backend behind never answers the latter."""
    settings = bench.settings
    with bench.proxy(peer, "h2-h2") as (running, notes):
        row.notes += notes
        target = bench.target(running, peer)
        load.h2load(target, settings.warm, settings.h2_connections, settings.h2_streams)
        procs.settle(running.pids())
        before = procs.tree_pss_kib(running.pids())
        with held.connections(target, settings.idle_connections):
            procs.settle(running.pids())
            added = procs.tree_pss_kib(running.pids()) - before
        row.figures["idle_bytes"] = added * 1024 / settings.idle_connections
    with bench.proxy(peer, "hold") as (running, _):
        target = bench.target(running, peer)
        with held.connections(target, HELD_CONNECTIONS, ask=False) as made:
            procs.settle(running.pids())
            before, already = procs.tree_pss_kib(running.pids()), bench.backends.counted().held
            for connection in made:
                connection.ask(HELD_STREAMS)
            wanted = already + HELD_CONNECTIONS * HELD_STREAMS

            def all_held() -> None:
                if (now := bench.backends.counted().held) < wanted:
                    raise check.CheckFailed(f"{now - already} of {wanted - already} requests in flight")

            check.until(all_held, READY_SECONDS, running.dead)
            procs.settle(running.pids())
            added = procs.tree_pss_kib(running.pids()) - before
        row.figures["stream_bytes"] = added * 1024 / (HELD_CONNECTIONS * HELD_STREAMS)


HELD_CONNECTIONS, HELD_STREAMS = 20, 100


def rate_hop(bench: Bench, peer: Peer, row: Row) -> None:
    _rate(bench, peer, row, "plain", 1)


def rate_pair(bench: Bench, peer: Peer, row: Row) -> None:
    _rate(bench, peer, row, "pair", 2)


def large(bench: Bench, peer: Peer, row: Row) -> None:
    settings = bench.settings
    with bench.proxy(peer, "plain") as (running, notes):
        row.notes += notes
        check.plain(running.port, "/large", peer.host())
        target = bench.target(running, peer, large=True)
        load.closed(target, settings.warm, settings.connections)
        result, cpu = bench.window(
            row, running, lambda: load.closed(target, settings.seconds, settings.connections)
        )
        row.figures["cpu_us"] = cpu / result.answered  # an answer is one MiB
        row.figures["per_second"] = result.per_second


def handshake(bench: Bench, peer: Peer, row: Row) -> None:
    settings = bench.settings
    with bench.proxy(peer, "tls") as (running, notes):
        row.notes += notes
        target, clients = bench.target(running, peer), settings.handshake_connections

        def run(seconds: float) -> load.Result:
            return load.handshakes(target, seconds, clients, bench.certs.ca, SERVER_NAME)

        run(settings.warm)
        result, cpu = bench.window(row, running, lambda: run(settings.seconds))
        row.figures["cpu_us"] = cpu / result.answered
        row.figures["per_second"] = result.per_second


def memory(bench: Bench, peer: Peer, row: Row) -> None:
    """PSS of the tree after start, nothing but the checks served; then what an idle connection adds to it."""
    settings = bench.settings
    with bench.proxy(peer, "plain") as (running, notes):
        row.notes += notes
        row.figures["pss_mb"] = procs.tree_pss_kib(running.pids()) * 1024 / 1e6
        row.figures["processes"] = len(running.pids())
        target = bench.target(running, peer)
        load.closed(target, settings.warm, settings.connections)
        procs.settle(running.pids())
        before = procs.tree_pss_kib(running.pids())
        with load.idle(target, settings.idle_connections):
            procs.settle(running.pids())
            held = procs.tree_pss_kib(running.pids()) - before
        row.figures["warm_pss_mb"] = before * 1024 / 1e6
        row.figures["idle_bytes"] = held * 1024 / settings.idle_connections


@contextmanager
def _mesh(bench: Bench, peer: Peer) -> Iterator[Mesh]:
    assert isinstance(peer, Sidecar)
    bench.starts += 1
    directory, settings = bench.directory / f"{bench.starts:04d}-mesh", bench.settings
    with mesh(peer, directory, bench.backends.http1, settings.proxy_core, settings.load_core) as made:
        yield made


def sidecar_link_16(bench: Bench, peer: Peer, row: Row) -> None:
    _sidecar_link(bench, peer, row, 16)


def sidecar_link_64(bench: Bench, peer: Peer, row: Row) -> None:
    _sidecar_link(bench, peer, row, 64)


def _sidecar_link(bench: Bench, peer: Peer, row: Row, clients: int) -> None:
    """The pair with policy, endpoints and certificates from a control plane, and the mesh link between."""
    settings, running = bench.settings, procs.Running(0)
    with _mesh(bench, peer) as made:
        try:
            running.inner_port, _, _ = made.sidecar(running, SERVER)
            _, running.port, _ = made.sidecar(running, CLIENT)
            port, host = running.port, peer.host()
            check.until(lambda: check.plain(port, "/", host), READY_SECONDS, running.dead)
            check.refuses_strangers(running.inner_port, host)
            procs.settle(running.pids())
            target = bench.target(running, peer)
            load.closed(target, settings.warm, clients)
            result, cpu = bench.window(row, running, lambda: load.wrk(target, settings.seconds, clients))
            row.figures["cpu_us"] = cpu / result.answered
            row.figures["per_second"] = result.per_second
            row.figures.update(result.latency)
        finally:
            running.stop()


def sidecar_memory(bench: Bench, peer: Peer, row: Row) -> None:
    """An idle member of a mesh. The control plane is stopped first: it shares Python's pages with the sidecar
    and PSS would divide them."""
    running = procs.Running(0)
    with _mesh(bench, peer) as made:
        try:
            made.sidecar(running, SERVER)
            procs.settle(running.pids())
            made.control.stop()
            procs.settle(running.pids())
            row.figures["pss_mb"] = procs.tree_pss_kib(running.pids()) * 1024 / 1e6
            row.figures["processes"] = len(running.pids())
            if ended := running.dead():
                raise check.CheckFailed(f"the sidecar did not outlive its control plane: {ended}")
        finally:
            running.stop()


ROUTES_SMALL, ROUTES_LARGE = Routes(1, 1), Routes(1000, 10)
ROUTES_WINDOWS = 4


def routes(bench: Bench, peer: Peer, row: Row) -> None:
    """Both tables are served side by side and asked in turns, so that the machine's drift hits both alike."""
    if not isinstance(peer, Fastmesh):
        raise check.CheckFailed("routes measures fastmesh alone")
    settings = bench.settings
    few, many = Fastmesh(peer.executable, ROUTES_SMALL), Fastmesh(peer.executable, ROUTES_LARGE)
    spent, answered = {few: 0.0, many: 0.0}, {few: 0, many: 0}
    with bench.proxy(few, "plain") as (run_few, _), bench.proxy(many, "plain") as (run_many, _):
        for proxy, running in ((few, run_few), (many, run_many)):
            load.closed(bench.target(running, proxy), settings.warm, settings.connections)
        for _turn in range(ROUTES_WINDOWS):
            for proxy, running in ((few, run_few), (many, run_many)):
                target = bench.target(running, proxy)
                result, cpu = bench.window(
                    row, running, partial(load.closed, target, settings.seconds / 2, settings.connections)
                )
                spent[proxy] += cpu
                answered[proxy] += result.answered
    row.figures["cpu_us"] = spent[few] / answered[few]
    row.figures["cpu_us_10000"] = spent[many] / answered[many]
    row.figures["ratio"] = row.figures["cpu_us_10000"] / row.figures["cpu_us"]


Scenario = Callable[[Bench, Peer, Row], None]
# What `--scenario` takes, and the rows that it makes.
SCENARIOS: dict[str, dict[str, Scenario]] = {
    "h1": {"h1": h1},
    "h2": {"h2-h1": h2_h1, "h2-h2": h2_h2},
    "pair": {"pair": pair},
    "link": {"link-16": link_16, "link-64": link_64},
    "rate": {"rate-hop": rate_hop, "rate-pair": rate_pair},
    "grpc": {"grpc-rate": grpc_rate},
    "large": {"large": large},
    "handshake": {"handshake": handshake},
    "memory": {"memory": memory},
    "h2-memory": {"h2-memory": h2_memory},
    "routes": {"routes": routes},
    "sidecar": {"link-16": sidecar_link_16, "link-64": sidecar_link_64, "memory": sidecar_memory},
}
# The chain of a row that not every peer can form, and the scenarios in which nghttpx takes part unasked.
CHAIN_OF = {
    **{"h2-h1": "h2-h1", "h2-h2": "h2-h2", "link-16": "pair-h2", "link-64": "pair-h2"},
    **{"grpc-rate": "grpc", "h2-memory": "hold"},
}
ANY = Chain(())
MULTIPLEXED = ("h2", "link", "grpc", "h2-memory")
# Scenarios that measure one proxy alone.
ALONE = {
    **dict.fromkeys(("routes", "pick", "change"), "fastmesh"),
    **dict.fromkeys(("sidecar", "push"), "sidecar"),
}


def measure(bench: Bench, name: str, scenario: Scenario, peer: Peer, round_number: int) -> Row:
    """One row; what others disturbed is measured again, and the quietest attempt counts."""
    best: Row | None = None
    for attempt in range(1 + bench.settings.repeats):
        begun = time.monotonic()
        row = Row(name, peer.name, round_number)
        if peer.find() is None:
            row.status, row.error = "missing", peer.hint()
            return row
        try:
            scenario(bench, peer, row)
        except FAILURES as problem:
            row.status, row.error = "FAILED", str(problem)
            row.figures.clear()
        if attempt:
            bench.repeating += time.monotonic() - begun
        if row.status == "FAILED":
            return row  # also when it is a repeat that failed
        if best is None or _noise(row) < _noise(best):
            best = row
        if not best.disturbed or bench.repeating > bench.settings.repeat_seconds:
            break
    assert best is not None
    return best


def _noise(row: Row) -> float:
    return max(row.disturbance.values(), default=0.0)
