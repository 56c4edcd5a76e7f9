"""The admin endpoint of a real edge proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers import Process, wait_for
from integration.edges import Backend, Edge, fetch, get


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()


@pytest.fixture
def edge(spawn: Callable[..., Process], tmp_path: Path, backend: Backend) -> Edge:
    return Edge(spawn, tmp_path, backend.port)


def samples(text: str) -> dict[str, list[Any]]:
    """Samples by name, as Prometheus' own parser reads them."""
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(text: str, name: str, **labels: str) -> float:
    fit = [s for s in samples(text).get(name, []) if labels.items() <= s.labels.items()]
    return sum(s.value for s in fit)


def test_metrics_count_requests_under_istios_names(edge: Edge) -> None:
    edge.start()
    for _ in range(5):
        assert get(edge.port, "/some") == (200, "/some")
    assert get(edge.port, "/direct") == (200, "hello")
    assert get(edge.port, "/none")[0] == 503
    text = edge.view("/metrics")[1]
    labels = {"reporter": "source", "destination_service": "app.local", "response_code": "200"}
    assert value(text, "istio_requests_total", **labels) == 5
    assert value(text, "istio_requests_total", response_code="503", response_flags="UH") == 1
    assert value(text, "istio_request_duration_milliseconds_count", **labels) == 5
    assert value(text, "istio_request_duration_milliseconds_bucket", le="+Inf", **labels) == 5
    assert value(text, "istio_response_bytes_sum", **labels) >= 5 * len("/some")
    few = {"reporter": "source", "destination_service": "app.local"}
    for name in ("fastmesh_hop_duration_microseconds", "fastmesh_upstream_duration_milliseconds"):
        assert value(text, f"{name}_count", **few) == 5
        buckets = [s for s in samples(text)[f"{name}_bucket"] if few.items() <= s.labels.items()]
        counts = [s.value for s in buckets]
        assert counts == sorted(counts) and buckets[-1].labels["le"] == "+Inf"
    assert value(text, "fastmesh_rq_total") == 7
    assert value(text, "fastmesh_ready") == 1
    assert {s.labels["process"] for s in samples(text)["fastmesh_process_pss_bytes"]} == {
        "arbiter", "agent", "worker-0",
    }  # fmt: skip
    assert edge.view("/stats/prometheus")[0] == 200


def test_every_series_is_unique_and_every_family_is_typed_once(edge: Edge) -> None:
    edge.start()
    get(edge.port, "/x")
    get(edge.port, "/none")
    text = edge.view("/metrics")[1]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    keys = [line.rpartition(" ")[0] for line in lines]
    assert len(keys) == len(set(keys))
    types = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(types) == len(set(types)) == len(re.findall(r"^# HELP ", text, re.M))
    wanted = {
        "reporter", "source_workload", "source_workload_namespace", "source_principal", "source_app",
        "source_version", "source_cluster", "source_canonical_service", "source_canonical_revision",
        "destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
        "destination_version", "destination_cluster", "destination_canonical_service",
        "destination_canonical_revision", "destination_service", "destination_service_name",
        "destination_service_namespace", "request_protocol", "response_code", "response_flags",
        "grpc_response_status", "connection_security_policy",
    }  # fmt: skip
    assert set(samples(text)["istio_requests_total"][0].labels) == wanted


def test_clusters_show_load_and_health(edge: Edge, backend: Backend) -> None:
    edge.start()
    for _ in range(3):
        get(edge.port, "/x")
    lead = f"outbound|80||app.local::127.0.0.1:{backend.port}"
    text = edge.view("/clusters")[1]
    assert f"{lead}::rq_total::3\n" in text
    assert f"{lead}::health_flags::healthy\n" in text
    states = {c["name"]: c["endpoints"] for c in edge.json("/clusters?format=json")["clusters"]}
    assert states["outbound|80||app.local"][0]["rq_total"] == 3
    assert states["outbound|80||nobody.local"] == []


def test_stats_as_text_and_json(edge: Edge) -> None:
    edge.start()
    get(edge.port, "/x")
    text = edge.view("/stats")[1]
    assert "fastmesh_rq_total: 1\n" in text
    assert all(re.fullmatch(r"[a-z0-9_]+: [0-9.]+", line) for line in text.splitlines())
    found = {s["name"]: s["value"] for s in edge.json("/stats?format=json&filter=fastmesh_rq_t")["stats"]}
    assert found["fastmesh_rq_total"] == 1
    assert all("fastmesh_rq_t" in name for name in found)


def test_config_dump_and_server_info(edge: Edge) -> None:
    process = edge.start("--concurrency", "2")
    dump = edge.json("/config_dump")
    assert dump["source"] == str(edge.file)
    assert dump["config"]["listeners"][0]["port"] == edge.port
    info = edge.json("/server_info")
    assert info["arbiter_pid"] == process.pid
    assert info["state"] == "LIVE"
    assert info["concurrency"] == 2
    assert info["command_line"][:2] == ["fastmesh", "edge"]
    assert [w["state"] for w in info["workers"]] == ["serving", "serving"]
    assert len({w["pid"] for w in info["workers"]} | {info["arbiter_pid"], info["agent_pid"]}) == 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/stats", 405),
        ("PUT", "/ready", 405),
        ("GET", "/quitquitquit", 405),
        ("HEAD", "/metrics", 200),
        ("GET", "/stats?filter=%zz", 400),
    ],
)
def test_statuses(edge: Edge, method: str, path: str, status: int) -> None:
    edge.start()
    got, headers, body = fetch(edge.admin, path, method)
    assert got == status
    assert headers["connection"] == "close"
    if status == 405:
        assert headers["allow"] == ("POST" if path == "/quitquitquit" else "GET, HEAD")
    if method == "HEAD":
        assert body == "" and int(headers["content-length"]) > 1000


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 10000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST /quitquitquit HTTP/1.1\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"GET /config_dump HTTP/1.1\r\nHost: evil.example:15000\r\n\r\n", 403),
        (b"GET /stats HTTP/1.1\r\nHost: LOCALHOST:15000\r\n\r\n", 200),
        (b"GET /stats HTTP/1.1\r\nHost: [::1]:15000\r\n\r\n", 200),
    ],
)
def test_bad_requests_are_refused_and_the_next_one_is_served(edge: Edge, sent: bytes, status: int) -> None:
    edge.start()
    with socket.create_connection(("127.0.0.1", edge.admin), timeout=10) as sock:
        sock.sendall(sent)
        assert sock.makefile("rb").readline().split()[1] == str(status).encode()
    assert edge.view("/ready")[0] == 200


def test_slow_and_silent_connections_do_not_keep_others_out(edge: Edge) -> None:
    edge.start()
    silent = [socket.create_connection(("127.0.0.1", edge.admin)) for _ in range(20)]
    try:
        for i, byte in enumerate(b"GET /rea"):
            silent[i].sendall(bytes([byte]))
        assert edge.view("/ready") == (200, "LIVE\n")
    finally:
        for sock in silent:
            sock.close()


def test_quitquitquit_drains(edge: Edge) -> None:
    process = edge.start()
    assert edge.view("/quitquitquit", "POST")[0] == 200
    assert process.wait(15) == 0


def test_a_killed_agent_costs_nothing_and_its_successor_knows_the_config(edge: Edge) -> None:
    edge.start()
    get(edge.port, "/x")
    agent = edge.json("/server_info")["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    assert get(edge.port, "/x") == (200, "/x")
    wait_for(lambda: edge.json("/server_info")["agent_pid"] != agent, what="the next agent")
    wait_for(lambda: edge.view("/ready")[0] == 200, what="/ready")
    text = edge.view("/metrics")[1]
    assert value(text, "istio_requests_total", destination_service="app.local") == 2
    assert value(text, "fastmesh_config_generation") == 1  # the same content is no new generation


def test_the_access_log_is_in_envoys_format(edge: Edge, tmp_path: Path, backend: Backend) -> None:
    log = tmp_path / "access.log"
    edge.start("--access-log", str(log))
    get(edge.port, "/some?a=1", **{"User-Agent": 'me"\\', "X-Request-Id": "abc"})
    get(edge.port, "/none")
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 2, what="two lines")
    first, second = log.read_text().splitlines()
    stamp = r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\]"
    agent = r'"me\\"\\\\"'
    host = f'"127.0.0.1:{edge.port}" "127.0.0.1:{backend.port}"'
    pattern = stamp + r' "GET /some\?a=1 HTTP/1.1" 200 - 0 9 \d+ (\d+|-) "127.0.0.1" ' + re.escape(agent)
    assert re.fullmatch(pattern.replace(re.escape(agent), agent) + ' "abc" ' + re.escape(host), first), first
    assert re.match(stamp + r' "GET /none HTTP/1.1" 503 UH 0 \d+ \d+ - ', second), second
    # Rotation: the file is moved away, USR1 begins a new one.
    log.rename(tmp_path / "old.log")
    edge.process.signal(signal.SIGUSR1)
    wait_for(log.exists, what="the new file")
    get(edge.port, "/after")
    wait_for(lambda: "/after" in log.read_text(), what="a line in the new file")


def test_the_access_log_as_json(edge: Edge) -> None:
    edge.start("--access-log", "-", "--access-log-format", "json")
    get(edge.port, "/some")
    edge.process.wait_output('"path"')
    entry = json.loads(edge.process.stdout)
    assert entry["path"] == "/some" and entry["response_code"] == 200 and entry["bytes_sent"] == 5
    assert entry["upstream_cluster"] == "outbound|80||app.local"
    assert entry["duration_us"] >= entry["upstream_us"]


def test_a_full_disk_drops_lines_and_nothing_else(edge: Edge) -> None:
    edge.start("--access-log", "/dev/full")
    for _ in range(3):
        assert get(edge.port, "/x") == (200, "/x")
    wait_for(lambda: value(edge.view("/metrics")[1], "fastmesh_access_log_lines_dropped_total") == 3)
    assert "lines are dropped until it works" in edge.process.stderr
    assert edge.view("/ready")[0] == 200


def test_a_host_name_is_resolved(edge: Edge) -> None:
    edge.write(resolution="DNS", address="localhost")
    edge.start()
    wait_for(lambda: get(edge.port, "/x") == (200, "/x"), what="the resolved endpoint")
    states = {c["name"]: c["endpoints"] for c in edge.json("/clusters?format=json")["clusters"]}
    assert [e["hostname"] for e in states["outbound|80||app.local"]] == ["localhost"] * len(
        states["outbound|80||app.local"]
    )
    assert states["outbound|80||nobody.local"] == []
