"""agent/telemetry.py: what becomes of series and counters in shared memory, read back by a parser."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from shim.shm_shim import WorkerView

from fastmesh._core.shm import segment as seg
from fastmesh.agent.names import Names
from fastmesh.agent.prometheus import Exposition
from fastmesh.agent.telemetry import COUNTERS, istio

HTTP, GRPC = 0, 1
OUTBOUND = 1
WORKLOAD = {"service": "web", "namespace": "default", "version": "v1", "principal": "spiffe://d/web"}


def requests(segment: Any) -> dict[tuple[str, str, str], float]:
    """(request_protocol, response_code, grpc_response_status) -> requests."""
    agent: Any = SimpleNamespace(segment=segment, names=Names(), workload=WORKLOAD)
    out = Exposition()
    istio(agent, out)
    families = {f.name: f for f in text_string_to_metric_families(out.text())}
    names = ("request_protocol", "response_code", "grpc_response_status")
    samples = families["istio_requests"].samples
    found = {tuple(s.labels[n] for n in names): s.value for s in samples}
    assert len(found) == len(samples)
    return found  # type: ignore[return-value]


def test_every_counter_has_a_help_text() -> None:
    assert set(COUNTERS) == set(seg.COUNTER_NAMES)
    assert all(text.endswith(".") and "\n" not in text for text in COUNTERS.values())


def test_grpc_requests_are_told_apart_by_their_status() -> None:
    segment = seg.Segment.create(2)
    for worker, protocol, grpc in ((0, GRPC, 1), (1, GRPC, 1), (1, GRPC, 15), (0, GRPC, 0), (0, HTTP, 0)):
        WorkerView(segment, worker).observe(direction=OUTBOUND, protocol=protocol, grpc=grpc)
    assert requests(segment) == {
        ("grpc", "200", "0"): 2,
        ("grpc", "200", "14"): 1,
        ("grpc", "200", ""): 1,  # ended without a status: the client left
        ("http", "200", ""): 1,
    }


def test_a_grpc_status_in_an_answer_that_is_not_grpc_is_no_label() -> None:
    segment = seg.Segment.create(1)
    worker = WorkerView(segment, 0)
    worker.observe(direction=OUTBOUND, protocol=HTTP, grpc=3)
    worker.observe(direction=OUTBOUND, protocol=HTTP)
    assert requests(segment) == {("http", "200", ""): 2}
