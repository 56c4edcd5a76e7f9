"""How workloads come and go: kills, goodbyes, rolling restarts, replicas, certificates that run out."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Iterator

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Load, Mesh, Sidecar, running


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    # Certificates of 6 s are renewed every 3: each test here runs across renewals.
    with running(tmp_path_factory.mktemp("life"), "--cert-ttl", "6s") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def web(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("web", app=App("web"))


def test_a_killed_sidecar_leaves_the_lists_and_nobody_waits_for_it(mesh: Mesh, web: Sidecar) -> None:
    stays = mesh.sidecar("ratings", app=App("stays"))
    leaves = mesh.sidecar("ratings", app=App("leaves"))
    mesh.reaches(web, "ratings", stays, leaves)
    with Load(web.outbound, "ratings", clients=4, pause=0.01) as load:
        wait_for(lambda: set(load.good) == {"stays", "leaves"}, what="both to answer")
        leaves.kill()
        # 6 s of lease are the longest that the list keeps it; the deadline is the promise.
        mesh.reaches(web, "ratings", stays, timeout=10)
        assert mesh.listed("ratings") == {stays.inbound}
        failed = len(load.bad)
        load.more(50)
        assert len(load.bad) == failed, "once it has left the list nothing is sent to it"
    assert all(bad.startswith(("502", "503")) for bad in load.bad), load.bad
    assert stays.process.stop() == 0
    mesh.reaches(web, "ratings")
    answer = web.get("ratings", "/nobody")
    assert answer.status == 503
    assert web.logged(lambda e: e["path"] == "/nobody")["response_flags"] == "UH"


def test_a_rolling_restart_of_two_replicas_loses_nothing(mesh: Mesh, web: Sidecar) -> None:
    replicas = [mesh.sidecar("reviews", app=App(name)) for name in ("one", "two")]
    mesh.reaches(web, "reviews", *replicas)
    with (
        Load(web.outbound, "reviews", "/sleep/0.05", clients=4) as load,
        # What may not be repeated once it has arrived, on connections that are often idle when they end.
        Load(web.outbound, "reviews", "/post", clients=4, pause=0.02, method="POST") as posts,
    ):
        for replica in replicas:
            other = next(r for r in replicas if r is not replica)
            replica.process.signal(signal.SIGTERM)
            mesh.reaches(web, "reviews", other)
            assert replica.process.wait(20) == 0
            replica.start()
            mesh.reaches(web, "reviews", *replicas)
            before = load.good[replica.app.name]
            wait_for(
                lambda r=replica, b=before: load.good[r.app.name] > b, what=f"{replica.name} in use again"
            )
    assert load.bad == posts.bad == []
    for replica in replicas:
        assert replica.process.stop() == 0


def test_a_goodbye_comes_before_the_drain(mesh: Mesh, web: Sidecar) -> None:
    """The one that leaves is off the lists while it still finishes what it has."""
    app = App("slow")
    leaves = mesh.sidecar("slow", app=app)
    mesh.reaches(web, "slow", leaves)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(web.get("slow", "/hold").status))
    thread.start()
    wait_for(lambda: app.sleeping == 1, what="the request in the application")
    leaves.process.signal(signal.SIGTERM)
    mesh.reaches(web, "slow")
    assert not answers and leaves.process.alive, "the list was changed before the request had ended"
    app.release.set()
    thread.join()
    assert answers == [200]
    assert leaves.process.wait(15) == 0


def test_certificates_are_renewed_under_load_without_cutting_connections(mesh: Mesh, web: Sidecar) -> None:
    details = mesh.sidecar("details", app=App("details"))
    mesh.reaches(web, "details", details)
    kept = http.client.HTTPConnection("127.0.0.1", web.outbound, timeout=20)
    before = {proxy.name: proxy.serials() for proxy in (web, details)}
    with Load(web.outbound, "details", clients=3, pause=0.01) as load:
        dialled, failed = web.stat("up_cx_total"), web.stat("tls_connect_fail")
        kept.request("GET", "/first", headers={"Host": "details"})
        assert kept.getresponse().read()
        socket = kept.sock
        for proxy in (web, details):
            wait_for(lambda p=proxy: not p.serials() & before[p.name], 20, f"a new serial of {proxy.name}")
        load.more(50)
        kept.request("GET", "/second", headers={"Host": "details"})
        assert kept.getresponse().read()
        assert kept.sock is socket, "the connection was not cut"
        # And past the end of the first certificates' life: new handshakes with the new ones.
        first_end = min(p.info()["uptime_seconds"] for p in (web, details))
        wait_for(lambda: min(p.info()["uptime_seconds"] for p in (web, details)) > first_end + 4, 20)
        load.more(50)
        # Four callers at once need four connections; a cut one would have been dialled again.
        assert web.stat("up_cx_total") - dialled <= 4
    assert load.bad == []
    assert web.stat("tls_connect_fail") == failed
    assert all(p["ready"] for p in mesh.proxies().values())


def test_the_same_state_twice_the_newer_wins_and_is_told(mesh: Mesh, web: Sidecar) -> None:
    """Two processes with one state directory have one instance id: a copy by mistake, or a restart whose
    predecessor hangs."""
    app = App("twin")
    older = mesh.sidecar("twins", app=app)
    mesh.reaches(web, "twins", older)
    newer = Sidecar(mesh.directory, "twin-newer", "twins", app)
    newer.state = older.state
    swaps = {
        f"127.0.0.1:{getattr(older, port)}": f"127.0.0.1:{getattr(newer, port)}"
        for port in ("inbound", "outbound", "admin")
    }
    newer.command = [swaps.get(str(arg), newer.log if arg == older.log else arg) for arg in older.command]
    mesh.sidecars.append(newer)
    newer.start()
    mesh.reaches(web, "twins", newer)
    older.process.wait_output("instance", 15)
    mesh.control.wait_output("instance", 15)
    assert web.get("twins").status == 200
    assert older.process.alive, "it serves what it has, and says why it is left out"
    assert sum(name.startswith("twins-") for name in mesh.proxies()) == 1
