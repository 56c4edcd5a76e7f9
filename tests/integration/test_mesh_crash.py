"""A worker, the agent, the control plane are killed under load: what callers see of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Load, Mesh, Sidecar, running

SPLIT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - headers: {{response: {{set: {{x-config: "{word}"}}}}}}
    route: [{{destination: {{host: reviews}}}}]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("crash")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("reviews", "--concurrency", "2", app=App("reviews"))


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: Sidecar) -> Sidecar:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    return web


def replaced(proxy: Sidecar, victim: int, workers: int) -> None:
    wait_for(
        lambda: victim not in proxy.worker_pids() and len(proxy.worker_pids()) == workers,
        what=f"the replacement of {victim}",
    )
    proxy.wait_ready()


def test_a_killed_worker_of_one_costs_only_what_was_in_flight(web: Sidecar, reviews: Sidecar) -> None:
    (victim,) = web.worker_pids()
    with Load(web.outbound, "reviews", clients=6) as load:
        os.kill(victim, signal.SIGSTOP)  # so that what comes now waits in the socket's queue
        queued = socket.create_connection(("127.0.0.1", web.outbound), timeout=20)
        queued.sendall(b"GET /queued HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        os.kill(victim, signal.SIGKILL)
        assert queued.recv(65536).startswith(b"HTTP/1.1 200 "), (
            "a queued connection is served by the next one"
        )
        queued.close()
        replaced(web, victim, 1)
        load.more(100)
    # Each client had one request in flight at most.
    assert len(load.bad) <= 6
    assert "killed by SIGKILL; it is replaced" in web.process.stderr
    for proxy in (web, reviews):
        proxy.idle()
    wait_for(lambda: all(e["rq_active"] == 0 for e in cluster_endpoints(web)), what="gauges back to 0")


def cluster_endpoints(proxy: Sidecar) -> list[dict[str, int]]:
    import json

    clusters = json.loads(proxy.view("/clusters?format=json")[1])["clusters"]
    return [e for c in clusters for e in c["endpoints"]]


def test_a_killed_worker_of_two_on_the_far_side(web: Sidecar, reviews: Sidecar) -> None:
    before = reviews.worker_pids()
    victim = min(before)
    with Load(web.outbound, "reviews", clients=6) as load:
        os.kill(victim, signal.SIGKILL)
        replaced(reviews, victim, 2)
        load.more(100)
    assert len(load.bad) <= 6
    # What fails on the way to an upstream that dies is 502 or 503, with a flag that says so; nothing hangs.
    assert all(bad.startswith(("502", "503")) for bad in load.bad), load.bad
    flags = {e["response_flags"] for e in web.lines() if e["response_code"] in (502, 503)}
    assert flags <= {"UC", "UF", "UR"}
    assert before - {victim} <= reviews.worker_pids(), "the other worker is the same process"
    for proxy in (web, reviews):
        proxy.idle()
    wait_for(lambda: all(e["rq_active"] == 0 for e in cluster_endpoints(web)), what="gauges back to 0")
    wait_for(lambda: all(e["rq_active"] == 0 for e in cluster_endpoints(reviews)), what="gauges back to 0")


def test_a_killed_agent_costs_nothing_and_the_next_one_takes_over(
    mesh: Mesh, web: Sidecar, reviews: Sidecar
) -> None:
    mesh.apply(SPLIT.format(word="before"))
    workers, agent = web.worker_pids(), web.agent_pid
    counted = web.stat("rq_total")
    with Load(web.outbound, "reviews", clients=4) as load:
        for proxy in (web, reviews):
            os.kill(proxy.agent_pid, signal.SIGKILL)
        load.more(100)
        for proxy in (web, reviews):
            proxy.wait_ready()
        assert web.agent_pid != agent
        mesh.apply(SPLIT.format(word="after"))
        assert web.get("reviews").headers["x-config"] == "after"
        load.more(50)
    assert load.bad == []
    assert web.worker_pids() == workers
    assert web.stat("rq_total") > counted + load.good.total(), "counters go on where they were"
    names = {name.partition("-")[0]: p for name, p in mesh.proxies().items()}
    assert set(names) == {"web", "reviews"} and all(p["ready"] and not p["late"] for p in names.values())
    # The restarted agent serves the same generations on: proxy-status says that all is in step.
    assert mesh.cli("proxy-status").stdout.count("SYNCED") == 2


def test_a_killed_control_plane_costs_nothing(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    mesh.apply(SPLIT.format(word="kept"))
    version = web.info()["control_plane"]["versions"]
    third = mesh.sidecar("web", app=App("third"))
    mesh.reaches(third, "reviews", reviews)
    wait_for(lambda: (third.state / "topics").exists() and (third.state / "identity").exists())
    wait_for(lambda: third.info()["control_plane"]["versions"].keys() >= version.keys(), what="its topics")
    with Load(web.outbound, "reviews", clients=4) as load:
        mesh.kill_control()
        load.more(50)
        # A sidecar that is restarted now boots from what it kept, and speaks mTLS with it.
        third.kill()
        third.start()
        assert third.info()["control_plane"]["source"] == "disk"
        answer = third.get("reviews", "/from-disk")
        assert (answer.status, answer.headers["x-config"]) == (200, "kept")
        seen = reviews.logged(lambda e: e["path"] == "/from-disk")
        assert seen["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
        wait_for(lambda: web.stat("control_connected") == 0, 20, "web to notice")
        mesh.start()
        for proxy in (web, reviews, third):
            wait_for(lambda proxy=proxy: proxy.stat("control_connected") == 1, 30, f"{proxy.name} back")
        now = web.info()["control_plane"]["versions"]
        assert all(now[topic] >= number for topic, number in version.items()), "nothing went back"
        mesh.apply(SPLIT.format(word="again"))
        assert web.get("reviews").headers["x-config"] == third.get("reviews").headers["x-config"] == "again"
        load.more(50)
    assert load.bad == []
    assert third.process.stop() == 0
