"""The arbiter as a process, with workers and an agent of a few lines (fake_proxy.py): it alone is under
test."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import Process, free_port, wait_for

SCRIPT = Path(__file__).with_name("fake_proxy.py")
Start = Callable[..., Process]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def say(port: int, line: str, sock: socket.socket | None = None) -> tuple[int, str]:
    """Send a line to a worker: (its pid, its whole answer)."""
    with sock or connect(port) as peer:
        peer.sendall(f"{line}\n".encode())
        answer = peer.makefile().readline()
    return int(answer.split()[0]), answer


def hang(peer: socket.socket) -> None:
    """Make the worker stand still in this connection."""
    peer.sendall(b"hang\n")
    assert peer.recv(100) == b"hanging\n"


def children(pid: int) -> dict[str, list[int]]:
    """Names and pids of the children of a process."""
    found: dict[str, list[int]] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        name = Path(f"/proc/{child}/comm").read_text().strip()
        found.setdefault(name, []).append(int(child))
    return found


def gone(pid: int) -> bool:
    """Ended, whether or not its new parent has reaped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def start(spawn: Callable[..., Process]) -> Start:
    """Start a fake proxy with the ports of a sidecar and wait until it serves."""

    def run(port: int, workers: int = 1, file: str = "", env: dict[str, str] | None = None) -> Process:
        command = ["python", str(SCRIPT), "node", str(workers), str(port), *([file] if file else [])]
        process = spawn(command, name="proxy", env=env)
        process.wait_output(r"serving .*workers")
        return process

    return run


def test_serves_on_every_listener_and_leaves_on_term_with_0(start: Start) -> None:
    port = free_port()
    process = start(port, workers=2)
    assert set(children(process.pid)) == {"fastmesh-agent", "fastmesh-w0", "fastmesh-w1"}
    assert "inbound row" in say(port, "hello")[1]
    assert "outbound row" in say(port + 1, "hello")[1]
    assert process.stop() == 0
    order = [process.stderr.index(text) for text in ("draining", "agent says goodbye", "left")]
    assert order == sorted(order)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_a_crashed_worker_is_replaced_and_queued_connections_are_served(start: Start) -> None:
    port = free_port()
    process = start(port)
    pid, _ = say(port, "hello")
    # The worker stands still in one connection while others queue; then it is killed.
    with connect(port) as stuck:
        hang(stuck)
        queued = [connect(port) for _ in range(20)]
        os.kill(pid, signal.SIGKILL)
        pids = {say(port, "queued", sock)[0] for sock in queued}
    assert pids == {children(process.pid)["fastmesh-w0"][0]}
    assert pid not in pids
    assert "killed by SIGKILL; it is replaced" in process.stderr


def test_each_of_several_workers_has_its_own_queue(start: Start) -> None:
    port = free_port()
    process = start(port, workers=2)
    wait_for(lambda: {say(port, "x")[1].split()[2] for _ in range(20)} == {"row0", "row1"})
    victim = children(process.pid)["fastmesh-w0"][0]
    survivor = children(process.pid)["fastmesh-w1"][0]
    os.kill(victim, signal.SIGKILL)
    assert len({say(port, "x")[0] for _ in range(40)} - {victim}) <= 2
    assert children(process.pid)["fastmesh-w1"] == [survivor]


def test_a_worker_that_keeps_crashing_ends_the_proxy_with_3(start: Start, spawn: Start) -> None:
    port = free_port()
    process = spawn(["python", str(SCRIPT), "node", "1", str(port)], name="proxy", env={"STILLBORN": "1"})
    assert process.wait(30) == 3
    assert process.stderr.count("it is replaced") == 10
    assert "worker 0 crashed 10 times within 30 s: giving up" in process.stderr
    assert re.search(r"it is replaced in 0\.1 s.*\n.*it is replaced in 0\.2 s", process.stderr)


def test_a_hanging_worker_is_killed_and_replaced(start: Start) -> None:
    port = free_port()
    process = start(port, env={"LOOK_OFTEN": "1"})
    pid, _ = say(port, "hello")
    with connect(port) as stuck:
        hang(stuck)
        process.wait_output(r"worker 0 has not moved for \d+ s: killed")
        assert say(port, "hello")[0] != pid


def test_a_killed_agent_is_replaced_and_workers_stay(start: Start) -> None:
    port = free_port()
    process = start(port)
    before = children(process.pid)
    os.kill(before["fastmesh-agent"][0], signal.SIGKILL)
    wait_for(lambda: process.stderr.count("agent up") == 2, what="the second agent")
    after = children(process.pid)
    assert after["fastmesh-w0"] == before["fastmesh-w0"]
    assert after["fastmesh-agent"] != before["fastmesh-agent"]
    assert process.stop() == 0


def test_a_hanging_agent_is_killed_and_replaced(start: Start) -> None:
    port = free_port()
    process = start(port, env={"LOOK_OFTEN": "1"})
    agent = children(process.pid)["fastmesh-agent"][0]
    os.kill(agent, signal.SIGSTOP)
    process.wait_output("the agent does not answer: killed")
    wait_for(lambda: process.stderr.count("agent up") == 2, what="the second agent")
    assert "hello" in say(port, "hello")[1]


def test_when_the_arbiter_is_killed_nobody_stays(start: Start) -> None:
    port = free_port()
    process = start(port)
    pids = [pid for each in children(process.pid).values() for pid in each]
    process.signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: all(gone(pid) for pid in pids), what="the end of the children")


def test_drain_waits_for_what_is_in_flight(start: Start) -> None:
    port = free_port()
    process = start(port)
    with connect(port) as slow:
        slow.sendall(b"slow 1\n")
        wait_for(lambda: children(process.pid)["fastmesh-w0"])
        process.signal(signal.SIGTERM)
        process.wait_output("draining")
        assert "slow 1" in slow.makefile().readline()
    assert process.wait() == 0


def test_a_second_term_ends_it_at_once(start: Start) -> None:
    port = free_port()
    process = start(port)
    with connect(port) as stuck:
        hang(stuck)
        process.signal(signal.SIGTERM)
        process.wait_output("agent says goodbye")
        process.signal(signal.SIGTERM)
        process.wait_output("leaving now")
        process.wait_output("did not leave in time: killed")
    assert process.wait() == 0


def test_a_port_in_use_is_said_in_one_line(spawn: Start) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        process = spawn(["python", str(SCRIPT), "node", "1", str(port)], name="proxy")
        assert process.wait() == 1
    assert process.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in process.stderr


def test_two_proxies_cannot_share_a_port(start: Start, spawn: Start) -> None:
    port = free_port()
    start(port)
    second = spawn(["python", str(SCRIPT), "node", "1", str(port)], name="second")
    assert second.wait() == 1
    assert "the port is in use" in second.stderr


def test_hup_of_a_sidecar_is_harmless(start: Start) -> None:
    port = free_port()
    process = start(port)
    process.signal(signal.SIGHUP)
    process.wait_output("nothing to reload")
    say(port, "hello")


def test_the_log_can_be_json(start: Start, spawn: Start) -> None:
    port = free_port()
    process = spawn(["python", str(SCRIPT), "node", "1", str(port)], name="proxy", env={"LOG_FORMAT": "json"})
    process.wait_output('"message": "serving')
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    assert {line["process"] for line in lines} == {"arbiter", "agent"}
    assert all(line["level"] == "info" and line["time"].endswith("Z") for line in lines)


def test_ctrl_c_reaches_the_whole_group_and_still_drains(start: Start) -> None:
    port = free_port()
    process = start(port)
    with connect(port) as slow:
        slow.sendall(b"slow 0.5\n")
        os.killpg(process.pid, signal.SIGINT)
        process.wait_output("SIGINT: draining")
        assert "slow" in slow.makefile().readline()
    assert process.wait() == 0
    assert "agent says goodbye" in process.stderr
    assert "replaced" not in process.stderr
