"""The control plane's metrics (Prometheus), in a registry of its own.

Owns names and types; values that others own are read when scraped.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """All series of one control plane."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Control protocol requests by type", "type")
        self.refused = self._counter("refused", "Control protocol requests refused, by code", "code")
        self.malformed = self._counter("malformed_frames", "Frames that are not messages of the protocol")
        self.undelivered = self._counter(
            "undelivered_frames", "Frames for sidecars that had gone or took none"
        )
        self.updates = self._counter("updates_published", "Topic updates published")
        self.certificates = self._counter("certificates_issued", "Certificates signed", "reason")
        self.nacks = self._counter("nacks", "Configs that a sidecar refused")
        self.api = self._counter("api_requests", "HTTP API answers by status", "status")
        self.converged = Histogram(
            "fastmesh_control_convergence_seconds",
            "From a change until every sidecar concerned serves it",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"fastmesh_control_{name}", text, labels, registry=self.registry)

    def read(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for at each scrape."""
        Gauge(f"fastmesh_control_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
