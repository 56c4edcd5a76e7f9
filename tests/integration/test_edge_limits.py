"""An edge that runs out of descriptors, or of endpoints that answer."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import free_port, istio, wait_for
from helpers.app import App
from helpers.mesh import EdgeProxy, Load, request


class Made:
    def __init__(self, directory: Path, *ports: int) -> None:
        self.port = free_port()
        text = istio.text(
            istio.gateway(istio.http(self.port)),
            istio.routes("- route: [{destination: {host: app.local}}]"),
            istio.service("app", *ports),
        )
        self.edge = EdgeProxy(directory, text, "--concurrency", "1")
        self.edge.start()


@pytest.fixture
def app() -> Iterator[App]:
    app = App("app")
    yield app
    app.close()


@pytest.fixture
def made(tmp_path: Path, app: App) -> Iterator[Made]:
    made = Made(tmp_path, app.port)
    yield made
    made.edge.kill()
    print(made.edge.process.report())


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_nothing_spins_and_it_serves_again_when_there_are_some(made: Made) -> None:
    assert request(made.port, "x").status == 200
    (worker,) = made.edge.worker_pids()
    used = len(os.listdir(f"/proc/{worker}/fd"))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, used + 20))
    held = []
    try:
        for _ in range(100):
            held.append(socket.create_connection(("127.0.0.1", made.port), timeout=10))
        before = cpu_seconds(worker)
        time.sleep(0.5)  # what is measured is what it does in this time, with connections that wait
        assert cpu_seconds(worker) - before < 0.25, "it must wait, not turn"
        assert made.edge.worker_pids() == {worker}
    finally:
        for sock in held:
            sock.close()
    assert request(made.port, "x", timeout=20).status == 200
    made.edge.idle()


def test_an_endpoint_that_does_not_answer_is_gone_round(tmp_path: Path, app: App) -> None:
    """Istio's default retries: a request that could not be sent goes to another endpoint."""
    made = Made(tmp_path, app.port, free_port())
    try:
        with Load(made.port, "x", clients=3) as load:
            load.more(100)
        assert load.bad == []
        assert made.edge.stat("up_cx_fail") > 0 and made.edge.stat("rq_retry") > 0
        wait_for(lambda: any(e["upstream_request_attempt_count"] > 1 for e in made.edge.lines()))
    finally:
        made.edge.kill()
