"""An edge whose file changes, and that is told to leave, under load: what its clients see."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import free_port, istio, port_open, wait_for
from helpers.app import App
from helpers.mesh import EdgeProxy, Load, request

ROUTE = """
- match: [{{uri: {{prefix: /{word}}}}}]
  directResponse: {{status: 200, body: {{string: {word}}}}}
"""


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = App("app")
    yield app
    app.close()


class Changing:
    """An edge of which ports and routes change."""

    def __init__(self, directory: Path, app: App, *options: str) -> None:
        self.app = app
        self.ports = [free_port()]
        self.words: list[str] = []
        self.edge = EdgeProxy(directory, "", *options)
        self.write()
        self.edge.start()

    def write(self) -> None:
        servers = [istio.http(port, f"p{port}") for port in self.ports]
        routes = "".join(ROUTE.format(word=word) for word in self.words)
        text = istio.text(
            istio.gateway(*servers),
            istio.routes(routes + "- route: [{destination: {host: app.local}}]"),
            istio.service("app", self.app.port),
        )
        self.edge.file.write_text(text)

    def reload(self) -> None:
        self.write()
        self.edge.reload(said="reloaded")


@pytest.fixture
def changing(tmp_path: Path, app: App) -> Iterator[Changing]:
    made = Changing(tmp_path, app)
    yield made
    made.edge.kill()
    print(made.edge.process.report())


def test_new_routes_are_live_without_a_failed_request(changing: Changing) -> None:
    port = changing.ports[0]
    with Load(port, "x", clients=4) as load, Load(port, "x", clients=2, fresh=True) as fresh:
        for n in range(5):
            assert b'"app"' in request(port, "x", f"/word{n}").body
            changing.words.append(f"word{n}")
            changing.reload()
            wait_for(
                lambda n=n: [request(port, "x", f"/word{n}").body for _ in range(4)] == [b"word%d" % n] * 4,
                what="the new route in all workers",
            )
        load.more(20)
        fresh.more(5)
    assert load.bad == fresh.bad == []


def test_ports_are_added_and_removed_without_a_failed_request(changing: Changing) -> None:
    stays, other = changing.ports[0], free_port()
    with Load(stays, "x", clients=4) as load, Load(stays, "x", clients=2, fresh=True) as fresh:
        changing.ports.append(other)
        changing.reload()
        assert request(other, "x").status == 200
        load.more(20)
        changing.ports.remove(other)
        changing.reload()
        wait_for(lambda: not port_open(other), what="the end of the removed port")
        load.more(20)
        fresh.more(5)
    assert load.bad == fresh.bad == []
    assert request(stays, "x").status == 200


def test_a_bad_file_and_signals_in_a_row_leave_the_old_config_serving(changing: Changing) -> None:
    port = changing.ports[0]
    good = changing.edge.file.read_text()
    bad = [
        (good.replace("directResponse", "x").replace("prefix", "x") + "\n  nonsense: 1", "nonsense"),
        (good.replace("route:", "rout:"), "rout"),
        (good.replace("resolution: STATIC", "resolution: SOMEHOW"), "SOMEHOW"),
        (good.replace("host: app.local", "host: nowhere.local"), "nowhere.local"),
        (good.replace("hosts: [app.local]", "hosts: [app.local, app.local, 5]"), "hosts"),
        (good + "\x00", ""),
        ("a: &a [*a]\n", ""),
        ("{" * 5000, ""),
    ]
    with Load(port, "x", clients=3) as load:
        for text, said in bad:
            changing.edge.reload(text, said="reload refused")
            assert said in changing.edge.process.stderr
            assert "Traceback" not in changing.edge.process.stderr
        # Signals while a reload is under way are not lost, and the last file is what counts.
        changing.words = ["last"]
        changing.write()
        for _ in range(20):
            changing.edge.process.signal(signal.SIGHUP)
        wait_for(lambda: request(port, "x", "/last").body == b"last", what="the last file")
        load.more(20)
    assert load.bad == []


def test_term_under_load_finishes_what_is_in_flight_and_says_close(tmp_path: Path, app: App) -> None:
    changing = Changing(tmp_path, app, "--drain-time", "60s")
    port = changing.ports[0]
    before = app.sleeping
    slow: list[int] = []
    closing: list[str | None] = []
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    threads = [
        threading.Thread(target=lambda: slow.append(request(port, "x", "/hold").status)) for _ in range(4)
    ]

    def ask_late() -> None:
        """In flight when the signal comes: the answer says that the connection ends."""
        kept.request("GET", "/hold", headers={"Host": "x"})
        answer = kept.getresponse()
        answer.read()
        closing.append(answer.getheader("connection"))

    threads.append(threading.Thread(target=ask_late))
    for thread in threads:
        thread.start()
    wait_for(lambda: app.sleeping == before + 5, what="five requests in the application")
    process = changing.edge.process
    process.signal(signal.SIGTERM)
    process.wait_output("draining")
    wait_for(lambda: changing.edge.view("/ready")[0] == 503, what="DRAINING")
    wait_for(lambda: not port_open(port), what="the end of the listener")
    app.release.set()
    assert process.wait(25) == 0, "it leaves with the last request, long before the bound"
    for thread in threads:
        thread.join()
    assert slow == [200] * 4
    assert closing == ["close"]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert changing.edge.lines()[-1]["response_code"] == 200, "the log is whole"
    assert sum(e["path"] == "/hold" for e in changing.edge.lines()) == 5


def test_a_client_that_stays_on_its_connection_is_let_go_between_requests(tmp_path: Path, app: App) -> None:
    """No request that was answered is lost: each client either gets its answer or finds the connection closed
    before it has sent anything (which clients repeat), never half an answer."""
    changing = Changing(tmp_path, app)
    port = changing.ports[0]
    halves: list[str] = []
    stop = threading.Event()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not stop.is_set():
            try:
                connection.request("GET", "/bytes/20000", headers={"Host": "x"})
                answer = connection.getresponse()
                if len(answer.read()) != 20000:
                    halves.append("short")
            except http.client.IncompleteRead as error:
                halves.append(repr(error))
            except (OSError, http.client.HTTPException):
                return

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    seen = app.requests
    wait_for(lambda: app.requests > seen + 50, what="traffic")
    assert changing.edge.process.stop(15) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert halves == []
