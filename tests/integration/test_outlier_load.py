"""An endpoint that starts to fail while a proxy is as busy as it can be: how many errors clients see of it,
and that no more come once it is ejected. Fails by answering, by not being there, by saying nothing."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import free_port, istio, wait_for
from helpers.h2load import H2load
from helpers.mesh import EdgeProxy

CLIENTS = 48
THRESHOLD = 5
REQUESTS = 50_000
# Longer than any answer takes on a busy machine, if there is one.
PATIENCE = "3s"


class Backend(EdgeProxy):
    """A proxy that answers by itself, as it is quick."""

    def __init__(self, directory: Path, name: str) -> None:
        self.port = free_port()
        super().__init__(directory, self.answers(200), "--concurrency", "1", "--access-log", "off", name=name)

    def answers(self, status: int) -> str:
        rule = f"- directResponse: {{status: {status}, body: {{string: ok}}}}"
        return istio.text(istio.gateway(istio.http(self.port)), istio.routes(rule))


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[list[Backend]]:
    made = [Backend(tmp_path, f"backend-{n}") for n in range(3)]
    try:
        for one in made:
            one.start(ready=False)
        for one in made:
            one.wait_ready()
        yield made
    finally:
        for one in made:
            one.kill()


def fail(backend: Backend, how: str) -> None:
    if how == "answers 500":
        backend.reload(backend.answers(500))
    elif how == "is gone":
        backend.kill()
    else:
        os.killpg(backend.process.pid, signal.SIGSTOP)


WAYS = ["answers 500", "is gone", "hangs"]
RETRIES = f'{{attempts: 3, perTryTimeout: {PATIENCE}, retryOn: "5xx,reset,connect-failure"}}'


def site(port: int, backends: list[Backend], protocol: str, route: str, policy: str = "") -> str:
    outlier = f"consecutive5xxErrors: {THRESHOLD}, baseEjectionTime: 1h, maxEjectionPercent: 100"
    return istio.text(
        istio.gateway(istio.http(port)),
        istio.routes(f"- route: [{{destination: {{host: app.local}}}}]\n{textwrap.indent(route, '  ')}"),
        istio.service("app", *(b.port for b in backends), protocol=protocol),
        istio.policy(
            "app", f"loadBalancer: {{simple: ROUND_ROBIN}}\noutlierDetection: {{{outlier}}}\n{policy}"
        ),
    )


@pytest.mark.parametrize("protocol", ["HTTP", "HTTP2"])
@pytest.mark.parametrize("how", WAYS)
def test_errors_are_bounded_by_the_threshold_and_what_is_in_flight(
    tmp_path: Path, backends: list[Backend], how: str, protocol: str
) -> None:
    port = free_port()
    text = site(port, backends, protocol, f"timeout: {PATIENCE}\nretries: {{attempts: 0}}")
    edge = EdgeProxy(tmp_path, text, "--access-log", "off")
    edge.start()
    loads = [H2load(tmp_path, port, REQUESTS, CLIENTS)]
    try:
        wait_for(lambda: edge.stat("rq_done") > REQUESTS / 10, 60, "load")
        assert edge.stat("od_ejections") == 0
        fail(backends[0], how)
        wait_for(lambda: edge.stat("od_ejections") == 1, 60, "the ejection")
        loads.append(H2load(tmp_path, port, REQUESTS // 5, CLIENTS))
        first, later = (load.result() for load in loads)
        assert first.done == REQUESTS and first.lost == later.lost == 0
        assert set(first.statuses) == {2, 5} and later.statuses == {2: REQUESTS // 5}
        assert THRESHOLD <= first.statuses[5] <= THRESHOLD + CLIENTS
        assert edge.stat("od_ejections") == 1
    finally:
        for load in loads:
            load.kill()
        edge.kill()
        print(edge.process.report())


@pytest.mark.parametrize("protocol", ["HTTP", "HTTP2"])
@pytest.mark.parametrize("how", WAYS)
def test_with_retries_clients_see_nothing_of_it(
    tmp_path: Path, backends: list[Backend], how: str, protocol: str
) -> None:
    """With a budget for all that are in flight at once: all may hang at the endpoint before it is ejected."""
    port = free_port()
    text = site(port, backends, protocol, f"retries: {RETRIES}", "retryBudget: {minRetryConcurrency: 1000}")
    edge = EdgeProxy(tmp_path, text, "--access-log", "off")
    edge.start()
    load = H2load(tmp_path, port, REQUESTS, CLIENTS)
    try:
        wait_for(lambda: edge.stat("rq_done") > REQUESTS / 10, 60, "load")
        assert edge.stat("rq_retry") == 0
        fail(backends[0], how)
        result = load.result()
        assert result.lost == 0 and result.statuses == {2: REQUESTS}
        assert edge.stat("od_ejections") == 1 and edge.stat("rq_retry_overflow") == 0
        assert THRESHOLD <= edge.stat("rq_retry") <= 3 * (THRESHOLD + CLIENTS)
    finally:
        load.kill()
        edge.kill()
        print(edge.process.report())
