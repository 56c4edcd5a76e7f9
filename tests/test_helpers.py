"""The test helpers themselves: what every integration test leans on must hold."""

from __future__ import annotations

import os
import socket

import pytest

from helpers import Process, free_port, port_open, wait_for, wait_port

# A parent and a child of its group that ignores SIGTERM; the parent prints the child's pid.
FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print("child", child, flush=True)
    print("to stderr", file=sys.stderr, flush=True)
while True:
    time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_free_ports_differ_and_can_be_bound():
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    for port in ports:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))


def test_wait_for_returns_the_value_and_treats_oserror_as_not_yet():
    calls = []

    def third_time():
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionRefusedError
        return "value" if len(calls) == 3 else None

    assert wait_for(third_time) == "value"
    with pytest.raises(AssertionError, match=r"the moon; last: 0"):
        wait_for(lambda: 0, timeout=0.05, what="the moon")


def test_wait_port_sees_a_listener():
    port = free_port()
    assert not port_open(port)
    with socket.create_server(("127.0.0.1", port)):
        wait_port(port)


def test_kill_leaves_nobody_of_the_group(tmp_path):
    process = Process(["python", "-c", FAMILY], tmp_path, name="family")
    try:
        child = int(process.wait_output(r"child (\d+)")[1])
        process.wait_output("to stderr")
        assert os.getpgid(child) == process.pid
    finally:
        process.kill()
    wait_for(lambda: gone(child), what="the child's end")
    assert process.returncode == -9
    assert "to stderr" in process.report()


def test_wait_output_fails_at_once_when_the_process_ends(spawn):
    process = spawn(["python", "-c", "raise SystemExit(3)"])
    with pytest.raises(AssertionError, match="ended with 3"):
        process.wait_output("never", timeout=60)


FAILING = """
def test_fails(spawn):
    spawn(["python", "-c", "import sys; sys.exit('my last words')"], name="speaker").wait()
    assert False
"""


def test_a_failed_test_shows_what_its_processes_wrote(pytester, request):
    pytester.makeconftest((request.config.rootpath / "tests/conftest.py").read_text())
    pytester.makepyfile(FAILING)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*--- speaker (pid *", "*my last words*"])
