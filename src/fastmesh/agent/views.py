"""What the admin endpoint shows, but for /ready (main.py) and /metrics (telemetry.py): text and JSON made
from the agent's parts when asked.

Reads; owns nothing. No view shows a private key or a token. Loaded with the first request: an agent that
nobody asks does not carry it.
"""

from __future__ import annotations

import json
import time

from fastmesh._core.shm.segment import STATE_NAMES
from fastmesh.agent.admin import PLAIN
from fastmesh.agent.names import counter_name
from fastmesh.compile.locality import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastmesh.agent.main import Agent

    Query = dict[str, str]
    Answer = tuple[int, str, str]  # status, content type, body

JSON = "application/json"
REDACTED = "[redacted]"
CONSECUTIVE = ("consecutive_5xx", "consecutive_gateway", "consecutive_local")
CHECKED = ("unknown", "healthy", "unhealthy")  # HE_* of shm/cells.pxd
SECRETS = {"key", "token"}
# PEM files: what is in them is what somebody's path pointed at, which may hold a private key as well.
PEM = {"cert", "ca"}

INDEX = """fastmesh admin endpoint

GET  /ready           200 when every worker serves a config
GET  /stats           counters and gauges (?format=json, ?filter=TEXT)
GET  /metrics         Prometheus text (also /stats/prometheus)
GET  /config_dump     the config in force, without private keys
GET  /clusters        endpoints with their load and health (?format=json)
GET  /explain         what a request would get, and why (?method=GET&url=http://...&header=name: value)
GET  /certs           certificates in use
GET  /server_info     version, uptime, workers
POST /quitquitquit    drain and leave
"""


def as_json(value: object, status: int = 200) -> Answer:
    return status, JSON, json.dumps(value, indent=1) + "\n"


def index(agent: Agent, query: Query) -> Answer:
    return 200, PLAIN, INDEX


def gauges(agent: Agent) -> dict[str, int | float]:
    """What has no counter in shared memory."""
    rows = [agent.segment.worker(row) for row in range(len(agent.segment.wake_fds))]
    here = [worker for worker in rows if worker["pid"]]
    found: dict[str, int | float] = {
        "fastmesh_workers": len(here),
        "fastmesh_connections": sum(worker["connections"] for worker in here),
        "fastmesh_requests_active": sum(worker["active"] for worker in here),
        "fastmesh_upstream_connections": sum(worker["upstreams"] for worker in here),
        "fastmesh_worker_memory_bytes": sum(worker["mem_bytes"] for worker in here),
        "fastmesh_config_generation": agent.publisher.generation,
        "fastmesh_config_published_total": agent.publisher.published,
        "fastmesh_config_rejected_total": agent.publisher.rejected,
        "fastmesh_agent_uptime_seconds": round(agent.uptime(), 3),
    }
    if agent.access_log is not None:
        found["fastmesh_access_log_lines_total"] = agent.access_log.written
        found["fastmesh_access_log_lines_dropped_total"] = agent.access_log.dropped
    found.update({name: value for name, _, _, value in agent.extra_metrics()})
    return found


def stats(agent: Agent, query: Query) -> Answer:
    if query.get("format") == "prometheus":
        return metrics(agent, query)
    values: dict[str, int | float] = {counter_name(k): v for k, v in agent.segment.counters().items()}
    values.update(gauges(agent))
    wanted = query.get("filter", "")
    shown = {name: values[name] for name in sorted(values) if wanted in name}
    if query.get("format") == "json":
        return as_json({"stats": [{"name": name, "value": value} for name, value in shown.items()]})
    return 200, PLAIN, "".join(f"{name}: {value}\n" for name, value in shown.items())


def metrics(agent: Agent, query: Query) -> Answer:
    from fastmesh.agent.prometheus import CONTENT_TYPE
    from fastmesh.agent.telemetry import metrics as scrape

    return 200, CONTENT_TYPE, scrape(agent)


def redacted(value: Any) -> Any:
    """A config as JSON can hold it, without what is secret."""
    if isinstance(value, dict):
        return {key: shown_as(key, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(part) for part in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value


def shown_as(key: str, part: Any) -> Any:
    if part and isinstance(part, bytes | str):
        if key in SECRETS:
            return REDACTED
        if key in PEM:
            return certificates_only(part if isinstance(part, bytes) else part.encode())
    return redacted(part)


def certificates_only(pem: bytes) -> str:
    """The certificates of a PEM file and nothing else that it holds."""
    from fastmesh.agent.x509 import BEGIN, END

    found = [part.partition(END)[0] for part in pem.split(BEGIN)[1:]]
    blocks = [BEGIN + body + END + b"\n" for body in found if b"-----" not in body]
    return b"".join(blocks).decode("ascii", "backslashreplace") if blocks else REDACTED


def dump(agent: Agent) -> dict[str, Any]:
    """The config in force, without private keys."""
    return {
        "node": agent.spec["node_id"],
        "generation": agent.publisher.generation,
        "source": agent.config_source(),
        "config": redacted(agent.publisher.config) if agent.publisher.config else None,
    }


def config_dump(agent: Agent, query: Query) -> Answer:
    return as_json(dump(agent))


def cluster_states(agent: Agent) -> list[dict[str, Any]]:
    """Every cluster of the config in force with what the workers did with its endpoints."""
    from fastmesh._core.shm.segment import cluster_id

    config = agent.publisher.config
    found = []
    now = time.monotonic_ns()
    for cluster in config["clusters"] if config else ():
        endpoints = []
        for endpoint in cluster["endpoints"]:
            host = endpoint["address"]
            address = f"[{host}]:{endpoint['port']}" if ":" in host else f"{host}:{endpoint['port']}"
            cell = agent.publisher.cells.cells.get(cluster_id(f"{cluster['name']}\0{address}"))
            if cell is None:
                continue
            state = agent.segment.endpoint_stats(cell)
            endpoints.append(
                {
                    "address": address,
                    "hostname": endpoint.get("host", ""),
                    "workload": endpoint.get("workload", ""),
                    "version": endpoint.get("version", ""),
                    "weight": endpoint.get("weight", 1),
                    "locality": endpoint.get("locality", ""),
                    "priority": 0 if "shares" in cluster else endpoint.get("level", 0),
                    "cx_active": state["connections"],
                    "cx_total": state["connects"],
                    "rq_active": state["active"],
                    "rq_total": state["requests"],
                    "rq_error": state["failures"],
                    **outlier_state(agent.segment, "outlier" in cluster, cell, now),
                    **check_state(agent, cluster, cell),
                }
            )
        found.append(
            {
                "name": cluster["name"],
                "service": cluster.get("service", ""),
                "circuit_breakers": circuit_breakers(agent, cluster),
                "endpoints": endpoints,
            }
        )
    return found


def outlier_state(segment: Any, watched: bool, cell: int, now: int) -> dict[str, Any]:
    """What outlier detection thinks of an endpoint, whose cluster has it if `watched`. `ejected_ms`: how long
    yet; 0 beside "ejected": the next request finds out."""
    from fastmesh._core.shm import clusters as cells

    said = cells.verdict(segment, cell)
    until = said["ejected_until"]
    left = max(0, until - now) // 1_000_000
    # without a rule ejections that are left run out by the clock
    out = until > now or (until > 0 and watched)
    return {
        "health": "healthy" if not out else "probing" if said["probing"] and left else "ejected",
        "ejected_ms": left,
        "ejections": said["ejections"],
        "consecutive_5xx": said["in_row_5xx"],
        "consecutive_gateway": said["in_row_gateway"],
        "consecutive_local": said["in_row_local"],
        "success_rate": success_rate(said["rate_requests"], said["rate_failures"]),
    }


def check_state(agent: Agent, cluster: Mapping[str, Any], cell: int) -> dict[str, Any]:
    """What active health checks say of an endpoint; who fails them is unhealthy, ejected or not."""
    from fastmesh._core.shm import clusters as cells

    if "health" not in cluster:
        return {"active_check": "off", "checks_passed": 0, "checks_failed": 0}
    said = cells.health(agent.segment, cell)
    shown: dict[str, Any] = {
        "active_check": CHECKED[said["health"]],
        "checks_passed": said["in_row_pass"],
        "checks_failed": said["in_row_fail"],
    }
    return {"health": "unhealthy", **shown} if shown["active_check"] == "unhealthy" else shown


def success_rate(requests: int, failures: int) -> float:
    """Percent of the last interval of outlier detection; -1 as in Envoy: nothing there, or not judged."""
    return round(100 * (requests - failures) / requests, 2) if requests else -1


def circuit_breakers(agent: Agent, cluster: Mapping[str, Any]) -> dict[str, int]:
    """A cluster's limits and what all workers use of them now; `overflows`: what they have refused;
    `client_retries`: requests that clients have repeated on top of the proxy's own retries."""
    from fastmesh._core.shm import clusters as cells
    from fastmesh._core.shm.segment import cluster_id
    from fastmesh.compile.snapshot import LIMITS, MAX_CONNECTIONS

    defaults = {**dict(LIMITS), "max_connections": MAX_CONNECTIONS}
    shown = {name: cluster.get(name, default) for name, default in defaults.items()}
    cell = agent.publisher.cells.clusters.get(cluster_id(cluster["name"]))
    if cell is not None:
        used = cells.stats(agent.segment, cell)
        shown |= {
            "cx_active": used["connections"],
            "rq_active": used["active"],
            "rq_pending": used["pending"],
            "rq_retrying": used["retries"],
            "overflows": used["overflows"],
            "client_retries": used["repeats"],
        }
    return shown


def clusters(agent: Agent, query: Query) -> Answer:
    states = cluster_states(agent)
    if query.get("format") == "json":
        return as_json({"clusters": states})
    lines = []
    for cluster in states:
        name = cluster["name"]
        lines.append(f"{name}::observability_name::{name}\n")
        for key, value in cluster["circuit_breakers"].items():
            lines.append(f"{name}::default_priority::{key}::{value}\n")
        for endpoint in cluster["endpoints"]:
            lead = f"{name}::{endpoint['address']}"
            for key in ("cx_active", "cx_total", "rq_active", "rq_total", "rq_error"):
                lines.append(f"{lead}::{key}::{endpoint[key]}\n")
            lines.append(f"{lead}::rq_success::{endpoint['rq_total'] - endpoint['rq_error']}\n")
            lines.append(f"{lead}::hostname::{endpoint['hostname']}\n")
            lines.append(f"{lead}::health_flags::{endpoint['health']}\n")
            for key in (
                "active_check",
                "checks_passed",
                "checks_failed",
                "ejected_ms",
                "ejections",
                *CONSECUTIVE,
                "success_rate",
            ):
                lines.append(f"{lead}::{key}::{endpoint[key]}\n")
            lines.append(f"{lead}::weight::{endpoint['weight']}\n")
            place = split(endpoint["locality"])
            for key, value in zip(("region", "zone", "sub_zone"), place, strict=True):
                lines.append(f"{lead}::{key}::{value}\n")
            lines.append(f"{lead}::priority::{endpoint['priority']}\n")
    return 200, PLAIN, "".join(lines)


def certs(agent: Agent, query: Query) -> Answer:
    def shown(each: dict[str, Any]) -> dict[str, Any]:
        stamps = {
            key: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each[key]))
            for key in ("not_before", "not_after")
            if isinstance(each.get(key), int)
        }
        if "not_after" in stamps:
            stamps["days_until_expiration"] = str(int(max(0.0, each["not_after"] - time.time()) // 86400))
        return {**each, **stamps}

    contexts = []
    for context in agent.certificate_contexts():
        contexts.append({**context, **{k: [shown(c) for c in context[k]] for k in ("cert_chain", "ca_cert")}})
    return as_json({"certificates": contexts})


def server_info(agent: Agent, query: Query) -> Answer:
    import os

    from fastmesh import __version__

    workers = []
    for row in range(len(agent.segment.wake_fds)):
        worker = agent.segment.worker(row)
        if worker["epoch"]:
            workers.append(
                {
                    "worker": row,
                    "pid": worker["pid"],
                    "state": STATE_NAMES[worker["state"]],
                    "generation": worker["seen_gen"],
                    "starts": worker["epoch"],
                    "connections": worker["connections"],
                    "active_requests": worker["active"],
                }
            )
    reason = agent.not_ready()
    info = {
        "version": f"fastmesh/{__version__}",
        "state": reason.partition(":")[0] if reason else "LIVE",
        "node": {"id": agent.spec["node_id"], **agent.workload},
        "role": agent.spec["role"],
        "uptime_seconds": round(agent.uptime(), 3),
        "arbiter_pid": os.getppid(),
        "agent_pid": os.getpid(),
        "concurrency": agent.spec["workers"],
        "generation": agent.publisher.generation,
        "workers": workers,
        "command_line": agent.spec["argv"],
        "control_plane": agent.control_state(),
    }
    return as_json(info)


def explain(agent: Agent, query: Query) -> Answer:
    from fastmesh.agent import explain as explaining

    try:
        return as_json(explaining.ask_agent(agent, query))
    except explaining.Usage as error:
        return 400, PLAIN, f"{error}\n"
    except explaining.NotReady as error:
        return 503, PLAIN, f"{error}\n"


def quitquitquit(agent: Agent, query: Query) -> Answer:
    agent.ask_to_drain()
    return 200, PLAIN, "draining\n"


GET = {
    "/": index,
    "/help": index,
    "/stats": stats,
    "/stats/prometheus": metrics,
    "/metrics": metrics,
    "/config_dump": config_dump,
    "/clusters": clusters,
    "/explain": explain,
    "/certs": certs,
    "/server_info": server_info,
}
POST = {"/quitquitquit": quitquitquit}


def answer(agent: Agent, method: str, path: str, query: Query) -> Answer:
    """The answer to one request; 404 and 405 as they should be (the caller adds Allow)."""
    if path == "/ready":
        return 405, PLAIN, "only GET\n"
    if path in GET:
        return GET[path](agent, query) if method in ("GET", "HEAD") else (405, PLAIN, "only GET\n")
    if path in POST:
        return POST[path](agent, query) if method == "POST" else (405, PLAIN, "only POST\n")
    return 404, PLAIN, f"nothing at {path}; see /\n"


def allowed(path: str) -> str:
    return "POST" if path in POST else "GET, HEAD"
