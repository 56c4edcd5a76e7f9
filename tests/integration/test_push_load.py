"""Config that changes ten times a second under load: no request is lost, the last change is what is served in
the end, and changes leave nothing behind that grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import free_port, istio, wait_for
from helpers.app import App
from helpers.h2load import H2load
from helpers.mesh import EdgeProxy, Load, Mesh, Proxy, Sidecar, request, running

A_SECOND = 10
PUSHES = 100
CLIENTS, RATE = 16, 200  # requests a second of each
# Of all processes of a proxy, MiB: what the allocators and Python keep at random, not what each change costs.
# A generation of these configs has 100 KiB, so that keeping one in ten would be above it.
MOST_MORE = 4.0
PADDING = 400  # routes


def memory(proxy: Proxy) -> float:
    """What the processes of a proxy use alone or share among them, in MiB (PSS)."""
    total = 0
    for pid in {*proxy.worker_pids(), proxy.agent_pid, proxy.process.pid}:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


class Pushes:
    """push(1), push(2), ... at this rate, until the end of the block; `last` is the newest that was taken."""

    def __init__(self, push: Callable[[int], object]) -> None:
        self.push = push
        self.last = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Pushes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 1 / A_SECOND
            try:
                self.push(self.last + 1)
            except Exception as error:
                self.failed.append(repr(error))
                return
            self.last += 1

    def upto(self, n: int) -> None:
        wait_for(lambda: self.last >= n or self.failed, 120, f"{n} changes")
        assert not self.failed


def routes(n: int, destination: str) -> str:
    """The n-th config: says n in each answer; has more or fewer routes than the one before."""
    padding = "".join(
        f"- match: [{{uri: {{exact: /padding/{n}/{i}}}}}]\n  directResponse: {{status: 200}}\n"
        for i in range(PADDING + n % 7)
    )
    return (
        f'{padding}- headers: {{response: {{set: {{x-word: "{n}"}}}}}}\n'
        f"  route: [{{destination: {{host: {destination}}}}}]\n"
        "  retries: {attempts: 0}"
    )


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[int]:
    """The port of a proxy that answers by itself, as it is quick."""
    port = free_port()
    text = istio.text(
        istio.gateway(istio.http(port)), istio.routes("- directResponse: {status: 200, body: {string: ok}}")
    )
    edge = EdgeProxy(tmp_path, text, "--access-log", "off", name="backend")
    edge.start()
    yield port
    edge.kill()


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "http2"])
def test_an_edge(tmp_path: Path, backend: int, h2: bool) -> None:
    port = free_port()

    def text(n: int) -> str:
        service = istio.service("app", backend, protocol="HTTP2" if h2 else "HTTP")
        return istio.text(istio.gateway(istio.http(port)), istio.routes(routes(n, "app.local")), service)

    edge = EdgeProxy(tmp_path, text(0), "--access-log", "off")
    edge.start()
    load = H2load(tmp_path, port, CLIENTS * RATE * PUSHES // A_SECOND, CLIENTS, rate=RATE, h2=h2)
    try:
        with Pushes(lambda n: edge.reload(text(n))) as pushes:
            pushes.upto(PUSHES // 5)
            before = memory(edge)
            result = load.result()
            grown = memory(edge) - before
        assert pushes.failed == [] and pushes.last > PUSHES // 4, "even where other things run"
        wait_for(
            lambda: {request(port, "x").headers["x-word"] for _ in range(8)} == {str(pushes.last)},
            what="the last change in all workers",
        )
        assert result.lost == 0 and result.statuses == {2: result.total}
        assert edge.stat("snap_refused") == 0
        assert grown < MOST_MORE
    finally:
        load.kill()
        edge.kill()
        print(edge.process.report())


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running(tmp_path) as mesh:
        yield mesh


def test_a_mesh(mesh: Mesh) -> None:
    reviews: Sidecar = mesh.sidecar("reviews", "--concurrency", "2", app=App("reviews"))
    web: Sidecar = mesh.sidecar("web", "--concurrency", "2", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    client = mesh.client

    def push(n: int) -> None:
        spec = f"hosts: [reviews]\nhttp:\n{routes(n, 'reviews')}"
        client.apply([("push.yaml", istio.document("VirtualService", "reviews", spec))])

    push(0)
    with Load(web.outbound, "reviews", clients=6) as load, Pushes(push) as pushes:
        pushes.upto(PUSHES // 5)
        before = memory(web), memory(reviews)
        pushes.upto(PUSHES)
        grown = memory(web) - before[0], memory(reviews) - before[1]
        answered = load.good.total()
    mesh.synced(40)
    assert load.bad == [] and answered > 10 * PUSHES
    assert {web.get("reviews").headers["x-word"] for _ in range(8)} == {str(pushes.last)}
    assert web.stat("snap_refused") == reviews.stat("snap_refused") == 0
    assert max(grown) < MOST_MORE
