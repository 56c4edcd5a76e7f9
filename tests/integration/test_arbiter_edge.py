"""A real edge proxy: reload, drain, crashes under load. What the arbiter promises, with the real workers and
agent."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import Process, free_port, wait_for
from integration.edges import Backend, Edge, get


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()


@pytest.fixture
def edge(spawn: Callable[..., Process], tmp_path: Path, backend: Backend) -> Edge:
    return Edge(spawn, tmp_path, backend.port)


class Load:
    """Clients that ask again and again, each on its own kept connection, until stopped."""

    def __init__(self, port: int, clients: int) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.good > 10 * clients, what="traffic")

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/direct")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200 and body in (b"hello", b"changed"):
                    self.good += 1
                else:
                    self.bad.append(f"{answer.status} {body!r}")
            except OSError as error:
                self.bad.append(repr(error))
                connection.close()
            except http.client.HTTPException as error:
                self.bad.append(repr(error))
                connection.close()
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_hup_takes_up_the_changed_file_without_a_new_process(edge: Edge) -> None:
    edge.start()
    before = edge.workers()
    load = Load(edge.port, 4)
    edge.write("changed")
    edge.process.signal(signal.SIGHUP)
    wait_for(lambda: get(edge.port, "/direct") == (200, "changed"), what="the new config")
    load.stop()
    assert load.bad == []
    assert [w["pid"] for w in edge.workers()] == [w["pid"] for w in before]


def test_a_bad_file_is_told_whole_and_the_old_config_serves(edge: Edge) -> None:
    edge.start()
    text = edge.file.read_text()
    edge.file.write_text(
        text.replace("hosts: [app.local]", "hostz: [app.local]").replace("prefix: /none", "prefixx: /none")
    )
    edge.process.signal(signal.SIGHUP)
    edge.process.wait_output("reload refused: the old config serves on")
    assert "hostz" in edge.process.stderr and "prefixx" in edge.process.stderr
    assert f"{edge.file}:" in edge.process.stderr
    assert get(edge.port, "/direct") == (200, "hello")
    edge.file.write_text("{")
    edge.process.signal(signal.SIGHUP)
    wait_for(lambda: edge.process.stderr.count("reload refused") == 2, what="the second refusal")
    edge.file.unlink()
    edge.process.signal(signal.SIGHUP)
    wait_for(lambda: edge.process.stderr.count("reload refused") == 3, what="the third refusal")
    assert get(edge.port, "/direct") == (200, "hello")
    # And a good one after bad ones is taken up.
    edge.write("changed")
    edge.process.signal(signal.SIGHUP)
    wait_for(lambda: get(edge.port, "/direct") == (200, "changed"), what="the good config")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_reloads_leave_no_descriptor_behind(edge: Edge) -> None:
    """Each reload hands configs over in memory files, which hold private keys: none stays in any process."""
    edge.start()
    info = edge.json("/server_info")
    pids = [info["arbiter_pid"], info["agent_pid"], info["workers"][0]["pid"]]
    counts = []
    for n in range(12):
        edge.write(f"word{n}")
        edge.process.signal(signal.SIGHUP)
        wait_for(lambda word=f"word{n}": get(edge.port, "/direct") == (200, word), what="the reload")
        wait_for(lambda n=n: edge.process.stderr.count("reloaded") > n, what="its end")
        counts.append([descriptors(pid) for pid in pids])
    # Kept upstream and admin connections come and go, one or two of them; a leak is one a reload.
    assert all(last <= first + 3 for first, last in zip(counts[0], counts[-1], strict=True)), counts


def test_a_new_port_moves_everything_to_new_workers(edge: Edge, backend: Backend) -> None:
    edge.start("--concurrency", "2")
    before = {w["pid"] for w in edge.workers()}
    old, edge.port = edge.port, free_port()
    slow: list[tuple[int, str]] = []
    edge.write("changed")
    # A request that is in flight on the old port while it is taken away.
    backend.sleeping.clear()
    thread = threading.Thread(target=lambda: slow.append(get(old, "/sleep/1")))
    thread.start()
    assert backend.sleeping.wait(10)
    edge.process.signal(signal.SIGHUP)
    edge.process.wait_output(r"reloaded; serving")
    assert get(edge.port, "/direct") == (200, "changed")
    thread.join()
    assert slow == [(200, "/sleep/1")]
    wait_for(lambda: not before & {w["pid"] for w in edge.workers()}, what="the end of the old workers")
    assert len(edge.workers()) == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old), timeout=5)
    # And back: the other half of the rows is free again.
    edge.port = old
    edge.write("hello")
    edge.process.signal(signal.SIGHUP)
    wait_for(lambda: get(old, "/direct") == (200, "hello"), what="the old port again")


def test_a_new_port_that_is_taken_is_refused(edge: Edge) -> None:
    edge.start()
    old, edge.port = edge.port, free_port()
    edge.write("changed")
    with socket.create_server(("127.0.0.1", edge.port)):
        edge.process.signal(signal.SIGHUP)
        edge.process.wait_output("reload refused: cannot listen on .*: the port is in use")
    assert get(old, "/direct") == (200, "hello")


def test_a_killed_worker_under_load_costs_only_what_was_in_flight(edge: Edge) -> None:
    edge.start("--concurrency", "2")
    load = Load(edge.port, 8)
    victim = edge.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in {w["pid"] for w in edge.workers()} and len(edge.workers()) == 2)
    good = load.good
    wait_for(lambda: load.good > good + 200, what="traffic after the crash")
    load.stop()
    # Each client has one request in flight; those on the other worker see nothing.
    assert len(load.bad) <= 8
    assert "killed by SIGKILL; it is replaced" in edge.process.stderr


def test_term_finishes_what_is_in_flight(edge: Edge, backend: Backend) -> None:
    process = edge.start()
    answers: list[tuple[int, str]] = []
    backend.sleeping.clear()
    thread = threading.Thread(target=lambda: answers.append(get(edge.port, "/sleep/1.5")))
    thread.start()
    assert backend.sleeping.wait(10)
    process.signal(signal.SIGTERM)
    process.wait_output("draining")
    wait_for(lambda: edge.view("/ready") == (503, "DRAINING\n"), what="DRAINING")
    assert process.wait(15) == 0
    thread.join()
    assert answers == [(200, "/sleep/1.5")]


def test_drain_time_is_a_bound(edge: Edge, backend: Backend) -> None:
    process = edge.start("--drain-time", "500ms")
    backend.sleeping.clear()
    failed: list[Exception] = []

    def ask() -> None:
        try:
            get(edge.port, "/sleep/60", timeout=30)
        except (OSError, http.client.HTTPException) as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert backend.sleeping.wait(10)
    assert process.stop(15) == 0
    thread.join()
    assert len(failed) == 1


def test_an_idle_kept_connection_does_not_hold_up_the_end(edge: Edge) -> None:
    process = edge.start()
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
    connection.request("GET", "/direct")
    assert connection.getresponse().read() == b"hello"
    assert process.stop(15) == 0
    connection.close()


@pytest.mark.parametrize("text", ["", "kind: [", "kind: Nonsense\n"])
def test_a_bad_file_at_the_start_ends_with_2(edge: Edge, text: str) -> None:
    edge.file.write_text(text)
    process = edge.start(ready=False)
    assert process.wait(20) == 2
    assert str(edge.file) in process.stderr
    assert "Traceback" not in process.stderr


def test_check_says_whether_a_file_can_be_used(edge: Edge, spawn: Callable[..., Process]) -> None:
    good = spawn(["fastmesh", "edge", "--check", "--config", edge.file], name="good")
    assert good.wait(20) == 0
    assert f"(0.0.0.0:{edge.port})" in good.stdout
    edge.file.write_text(edge.file.read_text().replace("servers:", "serverz:"))
    bad = spawn(["fastmesh", "edge", "--check", "--config", edge.file], name="bad")
    assert bad.wait(20) == 2
    assert "serverz" in bad.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--concurrency", "0"], "not a number from 1 to 32"),
        (["--drain-time", "soon"], "not a duration"),
        (["--admin", "nowhere"], "not HOST:PORT"),
        (["--config", "/nonexistent"], "no such file"),
        (["--config", "/"], "not a file"),
    ],
)
def test_wrong_usage_ends_with_2(edge: Edge, options: list[str], said: str) -> None:
    process = edge.start(*options, ready=False)
    assert process.wait(20) == 2
    assert said in process.stderr
