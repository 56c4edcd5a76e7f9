"""Does the harness itself tell the truth? Each of its checks is shown something that it must refuse.

Part of `pytest bench/`; nothing here measures fastmesh.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import certs, check, compare, load, paired, peers, policy, procs
from bench.peers import Site
from bench.peers.policy import HEADERS, LIMITED
from bench.run import EVERY
from bench.scenarios import Bench, Row

GOOD = b"HTTP/1.1 200 OK\r\nX-Seen-Version: HTTP/1.1\r\nContent-Length: 4\r\n\r\ngood"


@contextmanager
def server(answer: Callable[[int], bytes]) -> Iterator[int]:
    """A server that answers its n-th request with answer(n), and closes where that is empty."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    count = iter(range(1 << 30))

    def serve(sock: socket.socket) -> None:
        with sock:
            while sock.recv(65536):
                reply = answer(next(count))
                if not reply:
                    return
                sock.sendall(reply)

    def accept() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _always(reply: bytes, _number: int) -> bytes:
    return reply


def _stalling(number: int) -> bytes:
    if number == 50:
        time.sleep(0.4)  # the fault that is measured
    return GOOD


def test_latency_counts_from_when_a_request_was_due() -> None:
    """200/s on one connection and one stall of 0.4 s: the 80 requests due meanwhile all waited."""
    with server(_stalling) as port:
        result = load.rate(load.Target(port, "x", body=4), 1.0, 1, 200)
    assert result.answered == 200
    assert result.latency["max"] >= 400_000
    assert result.latency["p90"] >= 100_000, "coordinated omission: the stall was seen by one request only"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (GOOD.replace(b"200 OK", b"503 No"), "503"),
        (GOOD.replace(b"Length: 4", b"Length: 3"), "content-length"),
        (GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), "close"),
        (b"", "closed"),
        (GOOD + b"more", "more bytes"),
    ],
)
@pytest.mark.parametrize("mode", ["closed", "rate"])
def test_one_wrong_answer_fails_a_load(mode: str, reply: bytes, reason: str) -> None:
    with server(lambda number: reply if number == 20 else GOOD) as port:
        target = load.Target(port, "x", body=4)
        with pytest.raises(load.LoadFailed, match=reason):
            if mode == "closed":
                load.closed(target, 0.3, 2)
            else:
                load.rate(target, 0.3, 2, 200)


def test_a_load_on_a_dead_port_fails_and_ends() -> None:
    with pytest.raises(load.LoadFailed):
        load.closed(load.Target(procs.free_port(), "x"), 0.2, 2)


def test_checks_refuse_what_must_not_be_timed(bench: Bench) -> None:
    small = GOOD.replace(b"Length: 4", b"Length: 1024").replace(b"good", b"x" * 1024)
    for reply, reason in (
        (GOOD, "4 bytes"),
        (small.replace(b"200", b"404"), "404"),
        (small.replace(b"HTTP/1.1\r\nC", b"HTTP/1.0\r\nC"), "HTTP/1.0"),
        (small.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), "close"),
    ):
        with (
            server(partial(_always, reply)) as port,
            pytest.raises(check.CheckFailed, match=reason),
        ):
            check.plain(port, "/", "x")
    check.plain(bench.backends.http1, "/", "x")
    check.plain(bench.backends.http1, "/large", "x")


def test_an_inner_proxy_without_client_verification_is_caught(bench: Bench) -> None:
    floor = peers.make("floor")
    with (
        bench.proxy(floor, "tls") as (running, _notes),
        pytest.raises(check.CheckFailed, match="without a client"),
    ):
        check.mutual_inner(running.port, floor.host(), bench.certs)
    with bench.proxy(floor, "plain") as (running, _notes), pytest.raises(check.CheckFailed):
        check.mutual_inner(running.port, floor.host(), bench.certs)


@pytest.mark.parametrize("name", peers.NAMES)
@pytest.mark.parametrize("shape", ["plain", "pair", "tls"])
def test_every_installed_peer_serves_and_stops(bench: Bench, name: str, shape: str) -> None:
    peer = peers.make(name)
    if peer.find() is None:
        pytest.skip(peer.hint())
    with bench.proxy(peer, shape) as (running, _notes):
        assert running.dead() is None
        pids = running.pids()
        assert procs.tree_pss_kib(pids) > 0
        if shape != "tls":
            check.plain(running.port, "/large", peer.host())
    assert procs.tree(pids) == []


def test_cpu_time_has_the_whole_tree(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    program = f"import os, time\nif os.fork() == 0:\n exec({burn!r})\ntime.sleep(60)"
    running = procs.Running(0)
    try:
        core = procs.cores()[0]
        running.roots.append(procs.spawn([sys.executable, "-c", program], core, tmp_path / "log"))
        running.logs.append(tmp_path / "log")
        deadline = time.monotonic() + 20
        while sum(procs.cpu_ns(running.pids()).values()) < 300_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = running.pids()
        assert len(pids) == 2
        spent = procs.cpu_ns(pids)
        assert sum(spent.values()) >= 300_000_000
        assert spent[running.roots[0].pid, running.roots[0].pid] < 200_000_000
    finally:
        running.stop()
    assert procs.tree(pids) == []


def test_templates_are_filled(tmp_path: Path) -> None:
    made = certs.make(tmp_path / "certs")
    for name in peers.NAMES:
        for hop in {hop for chain in peers.CHAINS.values() for hop in chain.hops}:
            directory = tmp_path / f"{name}-{hop.name}"
            directory.mkdir()
            if not peers.make(name).speaks(hop):
                continue
            words = peers.make(name).command(hop, Site(1, 2, directory, made))
            assert not [word for word in words if "@" in word]


def _document(rows: list[tuple[str, str, int, dict[str, float]]]) -> dict[str, Any]:
    about = {"commit": "c" * 40, "dirty": False, "cpu": "x", "cores": 2, "kernel": "k"}
    about |= {"congestion_control": "bbr", "load_average": [0.0, 0.0, 0.0]}
    settings = {"rounds": 3, "seconds": 1.0, "proxy_core": 0, "load_core": 1, "quick": False}
    keys = ("scenario", "peer", "round", "figures")
    full = [
        {**dict(zip(keys, row, strict=True)), "status": "ok", "error": "", "disturbance": {}} for row in rows
    ]
    return {"taken": "now", "machine": about, "settings": settings, "versions": {}, "rows": full}


def _h1(ours: list[float], haproxy: list[float]) -> dict[str, Any]:
    rows = [("h1", "fastmesh", n, {"cpu_us": value}) for n, value in enumerate(ours)]
    return _document(rows + [("h1", "haproxy", n, {"cpu_us": value}) for n, value in enumerate(haproxy)])


def test_verdicts() -> None:
    bar = compare.BARS[0]
    assert (bar.scenario, bar.other, bar.factor) == ("h1", "haproxy", 1.1)

    def verdict(document: dict[str, Any]) -> compare.Verdict:
        return compare.judge(compare.Results(document), bar)

    assert verdict(_h1([10, 11, 12], [10, 10, 11])).verdict == "PASS"
    assert verdict(_h1([12, 12, 12], [10, 10, 10])).verdict == "FALLS SHORT"
    assert "within the spread" in verdict(_h1([10, 12, 12], [10, 10, 10])).detail
    assert verdict(_h1([10], [])).verdict == "NOT MEASURED"
    failed = _h1([10, 10], [10, 10])
    failed["rows"][1] |= {"status": "FAILED", "error": "503", "figures": {}}
    assert verdict(failed).verdict == "FAILED"


def test_a_change_is_told_only_where_rounds_do_not_overlap() -> None:
    base = _h1([10, 11, 12], [10, 11, 12])
    text = compare.render_change(_h1([20, 21, 22], [11, 12, 13]), base)
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("  h1")}
    assert lines["fastmesh"].endswith("more")
    assert not lines["haproxy"].endswith(("more", "less"))


def test_every_row_has_a_table() -> None:
    names = {name for rows in EVERY.values() for name in rows} | {"rate-direct"}
    assert names == set(compare.TABLES)
    assert {bar.scenario for bar in compare.BARS} <= names


def test_a_ratio_of_turns_says_how_sure_it_is() -> None:
    steady = paired.ratio([(10.0, 11.0), (20.0, 22.0), (5.0, 5.5)])
    assert steady.ratio == pytest.approx(1.1)
    assert steady.low == pytest.approx(1.1)
    assert steady.high == pytest.approx(1.1)
    drifting = paired.ratio([(10.0, 11.0), (20.0, 20.0), (5.0, 5.5)])
    assert drifting.low < drifting.ratio < drifting.high
    assert drifting.low < 1 < drifting.ratio, "three turns that disagree by a tenth show nothing"
    alone = paired.ratio([(4.0, 5.0)])
    assert (alone.low, alone.ratio, alone.high) == (1.25, pytest.approx(1.25), 1.25)


def test_turns_change_places(bench: Bench) -> None:
    asked: list[str] = []

    def side(name: str, cost: int) -> paired.Side:
        def run(_seconds: float) -> load.Result:
            asked.append(name)
            return load.Result(cost, 1.0)

        return paired.Side(bench.backends.running, run)

    row = Row("x", "fastmesh", 1)
    pairs = paired.cpu(bench, row, side("a", 1000), side("b", 1000), 3, 0.0)
    assert asked == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert len(pairs) == 3


@pytest.mark.parametrize("name", ["fastmesh", "envoy"])
def test_policy_is_on_for_the_requests_that_are_measured(bench: Bench, name: str) -> None:
    peer = peers.make(name)
    if peer.find() is None:
        pytest.skip(peer.hint())
    with paired.both(bench, peer, policy.with_policy(peer), "plain") as (plain, full):
        policy.takes(plain, peer, False)
        policy.takes(full, peer, True)
        with pytest.raises(check.CheckFailed, match="with policy"):
            policy.takes(plain, peer, True)
        unmatched = check.get(full.port, "/", peer.host(), HEADERS[1:])
        assert " 200" in unmatched.status_line
        assert LIMITED not in unmatched.headers, "four of the five headers are enough"
