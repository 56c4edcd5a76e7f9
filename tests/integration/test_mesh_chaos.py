"""Several things go wrong at once: processes die while config changes. In the end all is as was asked for."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

import pytest

from fastmesh.client import ApiError, Unreachable
from helpers import wait_for
from helpers.app import App
from helpers.mesh import Load, Mesh, Sidecar, running

ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - headers: {{response: {{set: {{x-word: "{word}"}}}}}}
    route: [{{destination: {{host: reviews}}}}]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("chaos")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("reviews", "--concurrency", "2", app=App("reviews"))


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: Sidecar) -> Sidecar:
    web = mesh.sidecar("web", "--concurrency", "2", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    return web


class Changes:
    """Config that changes all the time; `last` is the newest that the control plane has confirmed."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.last = self.tried = 0
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.tried += 1
            try:
                self.mesh.client.apply([("c.yaml", ROUTE.format(word=self.tried))])
                self.last = self.tried
            except Unreachable:
                self._stop.wait(0.05)
            except ApiError as error:
                self.refused.append(str(error))
            self._stop.wait(0.02)

    def more(self, count: int) -> None:
        wanted = self.last + count
        wait_for(lambda: self.last >= wanted, 30, "further changes")


def settled(mesh: Mesh, web: Sidecar, changes: Changes) -> None:
    """All serve what was confirmed last (or what was tried after that, if its answer got lost)."""
    mesh.synced(40)
    for _ in range(6):
        word = int(web.get("reviews").headers["x-word"])
        assert changes.last <= word <= changes.tried


def test_agents_and_workers_die_while_config_changes(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    dice = random.Random(7)
    with Load(web.outbound, "reviews", clients=4) as load, Changes(mesh) as changes:
        for _ in range(3):
            for proxy in (web, reviews):
                changes.more(2)
                proxy.wait_ready()
                os.kill(proxy.agent_pid, signal.SIGKILL)
                proxy.wait_ready()
                os.kill(dice.choice(sorted(proxy.worker_pids())), signal.SIGKILL)
        changes.more(5)
        load.more(50)
    # Six workers died, each with at most what four clients had in flight.
    assert len(load.bad) <= 6 * 4, load.bad
    assert changes.refused == []
    for proxy in (web, reviews):
        proxy.wait_ready()
    settled(mesh, web, changes)
    for proxy in (web, reviews):
        proxy.idle()
        assert "Traceback" not in proxy.process.stderr


def test_the_control_plane_dies_in_the_middle_of_changes(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    """What it has confirmed is there when it is back, and nothing older than that is served again."""
    with Load(web.outbound, "reviews", clients=3) as load, Changes(mesh) as changes:
        for _ in range(3):
            changes.more(5)
            mesh.kill_control()
            mesh.start()
            changes.more(2)
    assert load.bad == [] and changes.refused == []
    settled(mesh, web, changes)


def test_a_control_plane_that_stands_still_costs_nothing(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    mesh.apply(ROUTE.format(word=10**6))
    with Load(web.outbound, "reviews", clients=3) as load:
        mesh.control.signal(signal.SIGSTOP)
        try:
            wait_for(lambda: web.stat("control_connected") == 0, 30, "web to notice")
            load.more(50)
            assert web.view("/ready")[0] == 200, "it serves what it has"
        finally:
            mesh.control.signal(signal.SIGCONT)
        wait_for(lambda: web.stat("control_connected") == 1, 30, "web to be back")
        mesh.apply(ROUTE.format(word=10**6 + 1))
        assert web.get("reviews").headers["x-word"] == str(10**6 + 1)
    assert load.bad == []


def test_stopping_while_everything_dies_leaves_no_process(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    third = mesh.sidecar("third", "--concurrency", "2", app=App("third"))
    agent, workers = third.agent_pid, third.worker_pids()
    os.kill(agent, signal.SIGKILL)
    os.kill(min(workers), signal.SIGKILL)
    assert third.process.stop(30) == 0
    # It is the leader of its process group: nobody else is in it any more.
    with pytest.raises(ProcessLookupError):
        os.killpg(third.process.pid, 0)
    mesh.reaches(web, "third")
