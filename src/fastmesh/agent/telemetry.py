"""/metrics: Istio's standard metrics by their names and labels, and fastmesh's own.

Reads shared memory and the agent's parts when it is asked; owns nothing. What the application took and what
this hop added are two histograms, so that neither is blamed for the other.
"""

from __future__ import annotations

import os
import time

from fastmesh._core.shm.segment import (
    BYTES_BOUNDS,
    DIRECTION_NAMES,
    DURATION_BOUNDS_MS,
    HOP_BOUNDS_US,
    PROTOCOL_NAMES,
    SECURITY_NAMES,
    STATE_NAMES,
)
from fastmesh.agent.accesslog import flag_letters
from fastmesh.agent.names import UNKNOWN, counter_name, peer_parts, service_parts
from fastmesh.agent.prometheus import Exposition, labels_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastmesh.agent.main import Agent

    Hist = list[int]

COUNTERS = {
    "cx_total": "Downstream connections accepted.",
    "cx_closed": "Downstream connections closed.",
    "cx_overflow": "Downstream connections refused at the worker's cap.",
    "rq_total": "Request heads read.",
    "rq_done": "Requests finished.",
    "rq_bad": "Requests refused by the parser.",
    "rq_no_route": "Requests without a route (NR).",
    "rq_no_cluster": "Requests whose cluster does not exist (NC).",
    "rq_no_healthy": "Requests without a healthy endpoint (UH).",
    "rq_overload": "Requests refused because the worker has too much (OM).",
    "rq_timeout": "Requests that ran into their timeout (UT).",
    "rq_retry_reused": "Requests repeated because the reused connection was closed already.",
    "rq_retry": "Requests retried.",
    "rq_direct": "Direct responses and redirects.",
    "rq_dc": "Requests whose client left before the end (DC).",
    "rq_upstream_reset": "Requests that the upstream reset (UC, UR).",
    "rq_upstream_protocol": "Requests answered with garbage (UPE).",
    "rq_upstream_truncated": "Answers that ended in the middle of their body.",
    "rq_head_timeout": "Request heads that took too long.",
    "rq_upgrade": "Connections upgraded to tunnels.",
    "up_cx_total": "Upstream connections dialled.",
    "up_cx_reused": "Requests sent on a kept upstream connection.",
    "up_cx_fail": "Upstream connections that failed (UF).",
    "up_cx_timeout": "Upstream connections not made in time.",
    "up_cx_idle_closed": "Idle upstream connections closed by the upstream.",
    "up_cx_idle_timeout": "Idle upstream connections closed here.",
    "tls_accept": "TLS handshakes with clients.",
    "tls_accept_fail": "TLS handshakes with clients that failed.",
    "tls_accept_resumed": "TLS handshakes with clients that resumed a session.",
    "tls_connect": "TLS handshakes with upstreams.",
    "tls_connect_fail": "TLS handshakes with upstreams that failed.",
    "tls_connect_resumed": "TLS handshakes with upstreams that resumed a session.",
    "tls_peer_cert": "Peer certificates refused.",
    "tls_peer_identity": "Peers whose SPIFFE ID is not one expected.",
    "tls_plaintext_refused": "Plaintext connections refused by a STRICT listener.",
    "bytes_rx": "Bytes read from clients.",
    "bytes_tx": "Bytes written to clients.",
    "up_bytes_rx": "Bytes read from upstreams.",
    "up_bytes_tx": "Bytes written to upstreams.",
    "log_dropped": "Access-log records dropped because the ring was full.",
    "series_overflow": "Requests counted into the overflow series.",
    "snap_switch": "Config generations taken up.",
    "snap_refused": "Config generations that could not be used.",
    "pauses": "Reads paused by back-pressure.",
    "pool_full": "Allocations refused at a cap.",
    "rq_grpc": "gRPC requests.",
    "rq_overflow": "Requests refused: as many of the cluster are in flight as may be (http2MaxRequests).",
    "rq_pending_overflow": "Requests refused: too many wait for a connection, or this one has too long.",
    "up_cx_overflow": "Requests that had to wait because no more connections may be opened (maxConnections).",
    "fault_delays": "Requests delayed by an injected fault.",
    "fault_aborts": "Attempts answered by an injected fault.",
    "od_ejections": "Endpoints ejected by outlier detection.",
    "od_ejections_5xx": "Endpoints ejected for consecutive 5xx answers.",
    "od_ejections_gateway": "Endpoints ejected for consecutive answers 502, 503 and 504.",
    "od_ejections_local": "Endpoints ejected for consecutive failures without an answer.",
    "od_ejections_success_rate": "Endpoints ejected for a success rate far below that of the others.",
    "od_ejections_failure_percentage": "Endpoints ejected for the share of failed requests in an interval.",
    "od_overflow": "Endpoints not ejected because maxEjectionPercent of the cluster are.",
    "od_probe_ok": "Ejected endpoints that one request found well again.",
    "od_probe_fail": "Ejected endpoints that one request found still failing.",
    "rq_shed_memory": "New requests refused because nearly all of max_memory is in use (OM).",
    "rq_shed_active": "New requests refused because max_exchanges are in flight (OM).",
    "rq_shed_lag": "New requests refused because connections wait too long for their turn (OM).",
    "cx_shed": "Connections that clients were told to leave because of the memory in use.",
    "rq_limited": "Requests refused by a rate limit (429, RL).",
    "rl_evicted": "Token buckets that were given up, before they were full again, for other callers.",
    "rbac_allowed": "Requests that the authorization policies of their listener let pass.",
    "rbac_denied": "Requests that authorization policies refused (403).",
    "rbac_shadow_allowed": "Requests that policies with istio.io/dry-run would have let pass.",
    "rbac_shadow_denied": "Requests that policies with istio.io/dry-run would have refused.",
    "rbac_audited": "Requests that an authorization policy with the action AUDIT matches.",
    "rbac_path_refused": "Requests refused for a path that authorization cannot judge (400).",
    "hc_attempt": "Active health checks made.",
    "hc_success": "Active health checks passed.",
    "hc_failure": "Active health checks failed, for whatever reason.",
    "hc_network_failure": "Active health checks that failed without an answer that could be judged.",
    "hc_unhealthy": "Endpoints that active health checks found unhealthy.",
    "hc_healthy": "Endpoints that active health checks found healthy.",
    "hc_deferred": "Times that active health checks were due and had to wait: too many were in flight.",
    "cx_captured": "Connections that were redirected to this proxy from the address that was called.",
    "cx_port_refused": "Connections to ports that are not the application's, refused because of STRICT mTLS.",
    "tcp_guess": "Addresses dialled while it was not known yet whether HTTP is spoken there.",
    "tcp_guess_dropped": "... of these, connections that were of no use.",
    "rq_client_retry": "Requests that clients have repeated by themselves after a failure.",
    "rq_retry_given_up": "Retries not made because a hop further down the chain has used them up.",
    "rq_retry_overflow": "Retries that the retry budget or maxRetries did not allow.",
    "h2_cx": "HTTP/2 connections, of clients and to upstreams.",
    "h2_streams": "HTTP/2 streams opened, by clients and to upstreams.",
    "h2_refused": "HTTP/2 streams refused: more at a time than a connection may have.",
    "h2_rst_in": "RST_STREAM frames read.",
    "h2_rst_out": "RST_STREAM frames written.",
    "h2_goaway_in": "GOAWAY frames read.",
    "h2_goaway_out": "GOAWAY frames written.",
    "h2_malformed": "HTTP/2 messages refused: malformed (RFC 9113 8.1.1).",
    "h2_protocol": "HTTP/2 connections ended for an error of the protocol, a frame's size or HPACK.",
    "h2_flow": "HTTP/2 flow-control errors of peers.",
    "h2_header_list": "HTTP/2 heads refused for their size.",
    "h2_rapid_reset": "HTTP/2 connections ended: streams opened and reset too often (CVE-2023-44487).",
    "h2_made_reset": "HTTP/2 connections ended: the peer made us reset too many streams (CVE-2025-8671).",
    "h2_continuations": "HTTP/2 connections ended: too many CONTINUATION frames (CVE-2024-27316).",
    "h2_pings": "HTTP/2 connections ended: too many PING frames.",
    "h2_settings": "HTTP/2 connections ended: too many SETTINGS frames.",
    "h2_empty_frames": "HTTP/2 connections ended: too many frames that move nothing.",
    "h2_updates": "HTTP/2 connections ended: too many WINDOW_UPDATE frames.",
    "h2_control_out": "HTTP/2 connections ended: too many answers to control frames not read by the peer.",
    "h2_stalled": "HTTP/2 streams ended: their window stayed shut for too long.",
    "up_streams": "Requests sent as streams of an HTTP/2 connection to an upstream.",
    "up_refused": "Streams that an upstream refused or, going away, did not see.",
    "rq_rewrite": "Requests answered 500: what uriRegexRewrite makes of the path is no path, or too long.",
    "cors_valid": "Requests of an origin that the route's corsPolicy allows.",
    "cors_invalid": "Requests of an origin that the route's corsPolicy does not allow.",
    "cors_preflight": "CORS preflights answered by the proxy.",
    "mirror": "Copies of requests sent to mirrors.",
    "mirror_skipped": "Copies that were not sent: no cluster, its limit, memory, a body above 64 KiB.",
    "mirror_failed": "Copies that got no answer.",
    "tcp_total": "TCP sessions begun.",
    "tcp_open": "TCP sessions that got a connection to an upstream.",
    "tcp_done": "TCP sessions that are over.",
    "tcp_no_route": "TCP sessions without a route or cluster (NR, NC).",
    "tcp_no_healthy": "TCP sessions without a healthy endpoint (UH).",
    "tcp_overflow": "TCP sessions refused: no more connections to the cluster may be opened (UO).",
    "tcp_overload": "TCP sessions refused because the worker has too much (OM).",
    "tcp_connect_fail": "TCP sessions for which no endpoint could be reached (UF).",
    "tcp_connect_again": "Dials for a TCP session after one that failed.",
    "tcp_down_reset": "TCP sessions broken off by the client (DC).",
    "tcp_up_reset": "TCP sessions broken off by the upstream (UC).",
    "tcp_idle": "TCP sessions ended because nothing moved (SI).",
    "tcp_age": "TCP sessions ended by maxConnectionDuration (DT).",
    "tcp_hello_bad": "Connections to a TLS passthrough without a ClientHello that can be read.",
    "tcp_spliced": "Bytes of TCP sessions that went from socket to socket without being copied.",
    "tcp_hello_late": "Connections whose TLS handshake or ClientHello took too long.",
}
# What a series stands for that found no slot of its own: the label says so instead of naming somebody.
OVERFLOW = "overflow"


def series_labels(agent: Agent, series: dict[str, Any]) -> dict[str, str]:
    """Istio's standard labels of one series."""
    direction = DIRECTION_NAMES[series["direction"]]
    inbound = direction == "inbound"
    cluster = agent.names.cluster(series["cluster"])
    endpoint = agent.names.endpoint(series["endpoint"])
    peer = series["peer"]
    if not peer and not inbound and SECURITY_NAMES[series["security"]] == "mutual_tls":
        # The handshake succeeded, so the upstream is who the cluster accepts: known where that is one
        # identity.
        peer = cluster.get("identity", "")
    peer_namespace, peer_account = peer_parts(peer)
    own = agent.workload
    if inbound:
        service, namespace = own["service"] or UNKNOWN, own["namespace"]
        source = workload(peer_account, peer_namespace, "", peer)
        destination = workload(own["service"], namespace, own["version"], own["principal"])
        name = service
        service = f"{service}.{namespace}.svc.cluster.local" if own["service"] else UNKNOWN
    else:
        service = cluster.get("service", "") or UNKNOWN
        name, namespace = service_parts(service, cluster.get("namespace", "") or UNKNOWN)
        source = workload(own["service"], own["namespace"], own["version"], own["principal"])
        destination = workload(
            endpoint.get("workload") or peer_account,
            endpoint.get("namespace") or peer_namespace,
            endpoint.get("version", ""),
            peer,
            name,
        )
    labels = {"reporter": "destination" if inbound else "source"}
    for side, values in (("source", source), ("destination", destination)):
        labels.update({f"{side}_{key}": value for key, value in values.items()})
    labels.update(
        {
            "destination_service": service,
            "destination_service_name": name,
            "destination_service_namespace": namespace or UNKNOWN,
            "request_protocol": PROTOCOL_NAMES[series["protocol"]],
            "response_code": str(series["status"]),
            "grpc_response_status": grpc_status(series),
            "response_flags": flag_letters(series["flags"]) or "-",
            # The client's side cannot vouch for what the server enforces: Istio's own proxies say "unknown"
            # there.
            "connection_security_policy": SECURITY_NAMES[series["security"]] if inbound else UNKNOWN,
        }
    )
    if series["overflow"]:
        labels.update({"destination_service": OVERFLOW, "destination_service_name": OVERFLOW})
    return labels


def grpc_status(series: dict[str, Any]) -> str:
    """The status as a number, Istio's form; nothing for what is not gRPC or was ended without a status."""
    return str(series["grpc"] - 1) if series["protocol"] and series["grpc"] else ""


def workload(name: str, namespace: str, version: str, principal: str, service: str = "") -> dict[str, str]:
    """The labels of one side."""
    return {
        "workload": name or UNKNOWN,
        "workload_namespace": namespace or UNKNOWN,
        "principal": principal or UNKNOWN,
        "app": service or name or UNKNOWN,
        "version": version or UNKNOWN,
        "canonical_service": service or name or UNKNOWN,
        "canonical_revision": version or "latest",
        "cluster": UNKNOWN,
    }


def add(total: Hist | None, more: Hist) -> Hist:
    return more if total is None else [a + b for a, b in zip(total, more, strict=True)]


def istio(agent: Agent, out: Exposition) -> None:
    """The request metrics. Series that differ in what is no label of Istio's are added up."""
    requests: dict[str, int] = {}
    standard: dict[str, dict[str, Hist]] = {"duration": {}, "rx_bytes": {}, "tx_bytes": {}}
    own: dict[str, dict[str, Hist]] = {"upstream": {}, "hop": {}}
    for series in agent.segment.series():
        if PROTOCOL_NAMES[series["protocol"]] == "tcp":
            continue
        labels = series_labels(agent, series)
        text = labels_text(labels)
        requests[text] = requests.get(text, 0) + series["count"]
        for name, table in standard.items():
            table[text] = add(table.get(text), series[name])
        # What one hop adds does not depend on who calls: few labels, so that quantiles can be read off.
        few = labels_text({key: labels[key] for key in ("reporter", "destination_service")})
        for name, table in own.items():
            table[few] = add(table.get(few), series[name])
    out.family("istio_requests_total", "counter", "Requests handled by this proxy.")
    for text, count in requests.items():
        out.sample(count, text)
    for name, key, bounds, scale, about in (
        (
            "istio_request_duration_milliseconds",
            "duration",
            DURATION_BOUNDS_MS,
            1000,
            "Duration of requests.",
        ),
        ("istio_request_bytes", "rx_bytes", BYTES_BOUNDS, 1, "Size of requests."),
        ("istio_response_bytes", "tx_bytes", BYTES_BOUNDS, 1, "Size of responses."),
    ):
        histograms(out, name, about, bounds, scale, standard[key])
    for name, key, bounds, scale, about in (
        (
            "fastmesh_upstream_duration_milliseconds",
            "upstream",
            DURATION_BOUNDS_MS,
            1000,
            "From the request sent to the first byte of the answer: the time of the application behind.",
        ),
        (
            "fastmesh_hop_duration_microseconds",
            "hop",
            HOP_BOUNDS_US,
            1,
            "What this proxy added to a request.",
        ),
    ):
        histograms(out, name, about, bounds, scale, own[key])


TCP_METRICS = (
    ("istio_tcp_connections_opened_total", "TCP connections opened."),
    ("istio_tcp_connections_closed_total", "TCP connections closed."),
    ("istio_tcp_sent_bytes_total", "Bytes sent to clients of TCP connections."),
    ("istio_tcp_received_bytes_total", "Bytes received from clients of TCP connections."),
)
NOT_OF_TCP = ("response_code", "grpc_response_status")


def istio_tcp(agent: Agent, out: Exposition) -> None:
    """The metrics of TCP sessions; nothing where there was none."""
    found: dict[str, list[int]] = {}
    for series in agent.segment.series():
        if PROTOCOL_NAMES[series["protocol"]] != "tcp":
            continue
        labels = series_labels(agent, series)
        text = labels_text({key: value for key, value in labels.items() if key not in NOT_OF_TCP})
        values = [series["opened"], series["count"], series["tx_bytes"][0], series["rx_bytes"][0]]
        found[text] = add(found.get(text), values)
    for i, (name, about) in enumerate(TCP_METRICS) if found else ():
        out.family(name, "counter", about)
        for text, values in found.items():
            out.sample(values[i], text)


def histograms(
    out: Exposition, name: str, about: str, bounds: tuple[float, ...], scale: int, table: dict[str, Hist]
) -> None:
    out.family(name, "histogram", about)
    for labels, (total, *bins) in table.items():
        out.histogram(bounds, bins, total / scale if scale > 1 else total, labels)


def workers(agent: Agent, out: Exposition) -> None:
    """Gauges of each worker that is there."""
    rows = [(row, agent.segment.worker(row)) for row in range(len(agent.segment.wake_fds))]
    here = [(labels_text({"worker": str(row)}), worker) for row, worker in rows if worker["pid"]]
    for name, key, about in (
        ("connections", "connections", "Downstream connections open."),
        ("requests_active", "active", "Requests in flight."),
        ("upstream_connections", "upstreams", "Upstream connections open."),
        ("memory_bytes", "mem_bytes", "Bytes held by pools and buffers."),
        ("lag_microseconds", "lag_us", "From a connection being ready to its turn, as last measured."),
        ("generation", "seen_gen", "Config generation in use."),
    ):
        out.family(f"fastmesh_worker_{name}", "gauge", about)
        for labels, worker in here:
            out.sample(worker[key], labels)
    out.family("fastmesh_worker_state", "gauge", "1 for the state that the worker is in.")
    for labels, worker in here:
        out.sample(1, f'{labels},state="{STATE_NAMES[worker["state"]]}"')
    out.family("fastmesh_worker_starts_total", "counter", "Processes that were started for this worker.")
    for row, worker in rows:
        if worker["epoch"]:
            out.sample(worker["epoch"], labels_text({"worker": str(row)}))


def health(agent: Agent, out: Exposition) -> None:
    """Endpoints of each cluster with active health checks, and how many of them fail these."""
    from fastmesh._core.shm import clusters as cells
    from fastmesh._core.shm.segment import cluster_id

    config = agent.publisher.config
    checked = []
    for cluster in config["clusters"] if config else ():
        cell = (
            agent.publisher.cells.clusters.get(cluster_id(cluster["name"])) if "health" in cluster else None
        )
        if cell is not None:
            bad = cells.stats(agent.segment, cell)["unhealthy"]
            checked.append((labels_text({"cluster": cluster["name"]}), len(cluster["endpoints"]), bad))
    if not checked:
        return
    out.family("fastmesh_cluster_endpoints", "gauge", "Endpoints of a cluster with active health checks.")
    for labels, count, _ in checked:
        out.sample(count, labels)
    out.family("fastmesh_cluster_endpoints_unhealthy", "gauge", "... and those that fail them.")
    for labels, _, bad in checked:
        out.sample(bad, labels)


def agent_metrics(agent: Agent, out: Exposition) -> None:
    """What the agent itself knows."""
    from fastmesh import __version__

    out.family("fastmesh_build_info", "gauge", "Always 1; the version is in the label.")
    out.sample(1, labels_text({"version": __version__, "node": agent.spec["node_id"]}))
    out.gauge("fastmesh_agent_uptime_seconds", "Since the agent's process was started.", agent.uptime())
    out.gauge("fastmesh_ready", "1 when every worker serves a config.", 0 if agent.not_ready() else 1)
    publisher = agent.publisher
    out.gauge("fastmesh_config_generation", "Config generation that is published.", publisher.generation)
    out.counter("fastmesh_config_published_total", "Configs published by this agent.", publisher.published)
    out.counter("fastmesh_config_rejected_total", "Configs that could not be used.", publisher.rejected)
    if agent.access_log is not None:
        out.counter("fastmesh_access_log_lines_total", "Access-log lines written.", agent.access_log.written)
        out.counter(
            "fastmesh_access_log_lines_dropped_total",
            "Lines that could not be written.",
            agent.access_log.dropped,
        )
    certificates = agent.certificates()
    out.family(
        "fastmesh_certificate_expiration_timestamp_seconds",
        "gauge",
        "When a certificate in use ends (Unix time).",
    )
    for each in certificates:
        out.sample(
            each["not_after"],
            labels_text({"context": each["context"], "subject": each["subject"] or each["serial"]}),
        )
    for name, about, kind, value in agent.extra_metrics():
        if kind == "counter":
            out.counter(name, about, value)
        else:
            out.gauge(name, about, value)


def memory(agent: Agent, out: Exposition) -> None:
    """The proportional share of memory of each process; what cannot be read is left out."""
    pids = {"arbiter": os.getppid(), "agent": os.getpid()}
    for row in range(len(agent.segment.wake_fds)):
        if pid := agent.segment.worker(row)["pid"]:
            pids[f"worker-{row}"] = pid
    found = {name: size for name, pid in pids.items() if (size := pss_bytes(pid)) is not None}
    out.family("fastmesh_process_pss_bytes", "gauge", "Proportional set size of each process of this proxy.")
    for name, size in found.items():
        out.sample(size, labels_text({"process": name}))


def pss_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def metrics(agent: Agent) -> str:
    """The whole scrape."""
    began = time.monotonic()
    out = Exposition()
    istio(agent, out)
    istio_tcp(agent, out)
    for name, value in agent.segment.counters().items():
        out.counter(counter_name(name), COUNTERS.get(name, "See shm/stats.pxd."), value)
    workers(agent, out)
    health(agent, out)
    agent_metrics(agent, out)
    memory(agent, out)
    out.gauge("fastmesh_scrape_seconds", "What this scrape took.", time.monotonic() - began)
    return out.text()
