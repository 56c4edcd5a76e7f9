"""What the demo shows, a function a step: each makes real traffic, prints what came of it, and checks it.

Owns the claims. Processes are mesh.py's, clients and arithmetic traffic.py's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import time
from pathlib import Path

from fastmesh.demo import rpc
from fastmesh.demo.mesh import Mesh, Sidecar, wait_for
from fastmesh.demo.screen import Screen
from fastmesh.demo.traffic import (
    Background,
    KeepAlive,
    binomial_bounds,
    count_versions,
    latencies,
    new_trace,
    percentile,
)

PICTURE = """
  you -> web -> sidecar of web =mTLS=> sidecar of reviews -> reviews  v1
                      ^           `==> sidecar of reviews -> reviews  v2
                control plane"""

WEB = "spiffe://cluster.local/ns/default/sa/web"
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"

# Longer than the sidecars' leases with the control plane (mesh.LEASE).
AWAY_SECONDS = 3.0
CALLS = 200  # of gRPC

SUBSETS = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
"""
CANARY = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}
"""


def start(screen: Screen, mesh: Mesh, requests: int) -> None:
    """Start a control plane, three applications, and a sidecar beside each."""
    began = time.monotonic()
    mesh.start_control()
    mesh.start_apps()
    mesh.start_sidecars(mesh.sidecars)
    screen.info(f"{'process ids':<12}{'app':>9}{'arbiter':>9}{'agent':>9}{'worker':>9}   admin endpoint")
    for each in mesh.sidecars:
        info = each.admin_json("/server_info")
        pids = [mesh.processes[f"app-{each.name}"].pid, info["arbiter_pid"], info["agent_pid"]]
        cells = "".join(f"{pid:>9}" for pid in [*pids, info["workers"][0]["pid"]])
        screen.info(f"{each.name:<12}{cells}   http://127.0.0.1:{each.admin}")
    screen.check(True, f"all serve and know each other, {time.monotonic() - began:.1f} s after the start")


def certificates(screen: Screen, mesh: Mesh, requests: int) -> None:
    """Certificates: each sidecar made a key and got a SPIFFE identity."""
    serials = set()
    for each in mesh.sidecars:
        contexts = each.admin_json("/certs")["certificates"]
        chain = next(found["cert_chain"] for found in contexts if found["context"] == "identity")
        names = chain[0]["subject_alt_names"]
        wanted = f"URI:{WEB if each is mesh.web else REVIEWS}"
        hours = _hours(chain[0]["not_before"], chain[0]["not_after"])
        screen.info(f"{each.name:<11} {names[0].removeprefix('URI:')}")
        screen.info(f"{'':<11} serial {chain[0]['serial'][:16]}..., {hours:.0f} h, from {chain[0]['issuer']}")
        screen.check(names == [wanted], f"{each.name} holds a certificate for its service", f"{names}")
        serials.add(chain[0]["serial"])
    screen.check(
        len(serials) == len(mesh.sidecars),
        "each has a certificate of its own",
        f"{len(serials)} serial numbers",
    )


def _hours(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 3600


def mutual_tls(screen: Screen, mesh: Mesh, requests: int) -> None:
    """mTLS between the sidecars: counted where requests arrive, and nothing else gets in."""
    sent = 200
    before = {each.name: _mtls_requests(each) for each in mesh.reviews}
    tally = count_versions(mesh.web.app, sent, lambda n: None)
    screen.check(
        not tally.errors, f"web answered {sent} requests with what reviews told it", tally.error_text()
    )
    arrived = sum(_mtls_requests(each) - before[each.name] for each in mesh.reviews)
    handshakes = sum(each.counter("fastmesh_tls_accept_total") for each in mesh.reviews)
    screen.info('istio_requests_total{reporter="destination",connection_security_policy="mutual_tls",')
    screen.info(f'    source_principal="{WEB}"}} +{arrived}; TLS handshakes: {handshakes}')
    screen.check(
        arrived == sent, "all of them reached reviews over mTLS, from web's identity", f"{arrived} of {sent}"
    )
    target = mesh.reviews[0]
    refused = target.counter("fastmesh_tls_plaintext_refused_total")
    said = _plaintext(target.inbound)
    refused = target.counter("fastmesh_tls_plaintext_refused_total") - refused
    screen.check(
        said == b"" and refused == 1,
        "plaintext to the inbound port is refused (STRICT): closed without an answer, and counted",
        f"{said[:60]!r}, counted {refused} times",
    )
    said = _without_certificate(target.inbound)
    screen.check(said == b"", "and so is TLS without a certificate of the mesh", f"{said[:60]!r}")


def _mtls_requests(sidecar: Sidecar) -> int:
    """Requests of web that arrived at a sidecar over mTLS, by its metrics."""
    count = 0
    for line in sidecar.admin_text("/metrics").splitlines():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if (
            line.startswith("istio_requests_total{")
            and labels["reporter"] == "destination"
            and labels["connection_security_policy"] == "mutual_tls"
            and labels["source_principal"] == WEB
        ):
            count += int(line.rpartition(" ")[2])
    return count


def _plaintext(port: int) -> bytes:
    """What an inbound port answers to plain HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        return _answer(sock)


def _without_certificate(port: int) -> bytes:
    """What an inbound port answers over TLS to a client without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock, contextlib.suppress(ssl.SSLError):
        return _answer(context.wrap_socket(sock))
    return b""


def _answer(sock: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        return sock.recv(4096)
    return b""


def tracing(screen: Screen, mesh: Mesh, requests: int) -> None:
    """Tracing: one trace id on both hops."""
    client = KeepAlive(mesh.web.app)
    trace, traceparent = new_trace()
    screen.info(f"you     traceparent: {traceparent}")
    seen = client.json("/", {"traceparent": traceparent})["reviews"]
    _one_trace(screen, mesh, trace, seen, "your trace id went through both sidecars to reviews")
    began = client.json()["reviews"]
    trace = began["headers"]["traceparent"].split("-")[1]
    _one_trace(screen, mesh, trace, began, "without one, the first sidecar began a trace for both")
    client.close()


def _one_trace(screen: Screen, mesh: Mesh, trace: str, seen: dict[str, object], claim: str) -> None:
    """Check one request by what reviews saw and by the access logs of both sidecars."""
    headers = seen["headers"]
    assert isinstance(headers, dict)
    arrived = next(each for each in mesh.reviews if each.version == seen["version"])
    ids = {f"reviews {seen['version']} saw": headers.get("traceparent", "--").split("-")[1]}
    for sidecar in (mesh.web, arrived):
        record = mesh.logged(sidecar, headers["x-request-id"])
        ids[f"sidecar of {sidecar.service} logged"] = record["trace_id"]
    for who, found in ids.items():
        screen.info(f"{who:<27} {found}")
    screen.check(set(ids.values()) == {trace}, claim, f"{ids}")


def calls(screen: Screen, mesh: Mesh, requests: int) -> None:
    """gRPC: calls through both sidecars, spread over two instances from one connection."""
    try:
        grpc = rpc.grpc()
    except ImportError:
        screen.info("left out: it needs grpcio at both ends (pip install grpcio)")
        return
    ratings = mesh.start_ratings()
    options = [("grpc.default_authority", "ratings"), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{mesh.web.outbound}", options=options) as channel:
        rate = channel.unary_unary(f"/{rpc.SERVICE}/Rate")
        answers = [json.loads(rate(b"", timeout=5)) for _ in range(CALLS)]
        tally = {each.version: sum(a["version"] == each.version for a in answers) for each in ratings}
        low, _high = binomial_bounds(CALLS, 0.5, 1e-6)
        spread = ", ".join(f"{version} {count}" for version, count in tally.items())
        claim = f"{CALLS} calls over one connection of the client: {spread}"
        screen.check(min(tally.values()) >= low, claim, f"{tally}")
        # grpcio rounds a deadline up before it sends it, the sidecars only ever take from it.
        left = max(answer["seconds_left"] for answer in answers)
        screen.check(4 < left < 5.1, "the deadline of 5 s arrives with each call", f"{left:.3f} s left")
        messages = list(channel.unary_stream(f"/{rpc.SERVICE}/History")(b"", timeout=5))
        screen.check(messages == [b"4", b"5", b"3"], "a stream of 3 messages", f"{messages}")
        ends = (("Fail", 5, "NOT_FOUND: no such book"), ("Wait", 0.3, "DEADLINE_EXCEEDED"))
        for method, seconds, wanted in ends:
            said = ""
            try:
                channel.unary_unary(f"/{rpc.SERVICE}/{method}")(b"", timeout=seconds)
            except grpc.RpcError as error:
                said = f"{error.code().name}: {error.details()}"
            screen.check(said.startswith(wanted), f"a call that ends with {wanted}", said or "an answer")
    for reporter, each in (("source", mesh.web), ("destination", ratings[0])):
        seen = _grpc_statuses(each, reporter)
        counted = ", ".join(f"{seen[status]} with grpc-status {status or '-'}" for status in sorted(seen))
        screen.check(seen.get("0", 0) > 0, f"the sidecar of {each.name} counted {counted}", f"{seen}")
    handshakes = sum(each.counter("fastmesh_tls_accept_total") for each in ratings)
    claim = f"all of it over {handshakes} mTLS connections between the sidecars"
    screen.check(handshakes <= 2 * len(ratings), claim, "too many")


def _grpc_statuses(sidecar: Sidecar, reporter: str) -> dict[str, int]:
    """How many gRPC requests ended with which status, by a sidecar's metrics."""
    found: dict[str, int] = {}
    for line in sidecar.admin_text("/metrics").splitlines():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        named = line.startswith("istio_requests_total{") and labels["reporter"] == reporter
        if named and labels["request_protocol"] == "grpc":
            status = labels.get("grpc_response_status", "")
            found[status] = found.get(status, 0) + int(line.rpartition(" ")[2])
    return found


def canary(screen: Screen, mesh: Mesh, requests: int) -> None:
    """A canary: 95 % of the requests to v1, 5 % to v2."""
    screen.info(_write(mesh, "canary.yaml", SUBSETS + CANARY.format(v1=95, v2=5)))
    screen.info(mesh.fastmesh("apply", "-f", "canary.yaml", "--wait"))
    _measure(screen, mesh, requests, 0.05)


def live_change(screen: Screen, mesh: Mesh, requests: int) -> None:
    """The split changed while requests are under way: half and half, then all to v2."""
    with Background(mesh.web.app) as background:
        for v1, v2 in ((50, 50), (0, 100)):
            _write(mesh, "canary.yaml", SUBSETS + CANARY.format(v1=v1, v2=v2))
            screen.info(f"canary.yaml now has the weights {v1} and {v2}")
            screen.info(mesh.fastmesh("apply", "-f", "canary.yaml", "--wait"))
            _measure(screen, mesh, requests if v1 else requests // 4, v2 / 100)
    tally = background.result()
    screen.check(
        not tally.errors and tally.total,
        f"not one of {tally.total} other requests meanwhile failed",
        tally.error_text() or "there were none",
    )


def _write(mesh: Mesh, name: str, text: str) -> str:
    Path(mesh.directory, name).write_text(text)
    return text


def _measure(screen: Screen, mesh: Mesh, requests: int, share: float) -> None:
    """Count who answers, against what chance allows."""
    tally = count_versions(mesh.web.app, requests, lambda n: screen.progress(f"{n} of {requests} requests"))
    low, high = binomial_bounds(requests, share)
    v1, v2 = tally.versions["v1"], tally.versions["v2"]
    expected = f"{low} to {high} expected" if high > low else f"{low} expected"
    screen.check(not tally.errors, f"{requests} requests answered", tally.error_text())
    screen.check(
        not tally.errors and low <= v2 <= high,
        f"measured: v1 {v1}, v2 {v2} = {v2 / requests:.2%} for {share:.0%} ({expected})",
        "" if tally.total == v1 + v2 else f"only {v1 + v2} of {requests} were answered",
    )


def control_plane_away(screen: Screen, mesh: Mesh, requests: int) -> None:
    """The control plane killed: requests go on."""
    with Background(mesh.web.app) as background:
        wait_for(lambda: background.total > 100, "requests")
        process = mesh.processes["control"]
        screen.command(f"kill -9 {process.pid}")
        process.kill()
        killed, before = time.monotonic(), background.total
        wait_for(lambda: not any(map(_connected, mesh.sidecars)), "the sidecars to notice", 15.0)
        screen.info(f"the sidecars have noticed after {(time.monotonic() - killed) * 1000:.0f} ms")
        noticed = background.total
        wait_for(lambda: background.total >= noticed + requests // 2, "requests", 30.0)
        wait_for(lambda: time.monotonic() > killed + AWAY_SECONDS, "the lease to run out")
        alone, away = background.total - before, time.monotonic() - killed
    tally = background.result()
    screen.check(
        not tally.errors, f"{alone} requests in {away:.1f} s without it, none failed", tally.error_text()
    )
    mesh.start_control()
    wait_for(mesh.in_step, "the sidecars to come back")
    screen.info(mesh.fastmesh("proxy-status"))
    screen.check(True, "started again, it has every sidecar back and in step")


def _connected(sidecar: Sidecar) -> bool:
    connected: bool = sidecar.admin_json("/server_info")["control_plane"]["connected"]
    return connected


def latency(screen: Screen, mesh: Mesh, requests: int) -> None:
    """Latency that a hop adds: reviews called directly and through both sidecars, in turns."""
    target = mesh.reviews[-1]
    ways = {
        "direct": KeepAlive(target.app),
        "two sidecars": KeepAlive(mesh.web.outbound, "reviews"),
    }
    found = latencies(ways, requests, 50, lambda n: screen.progress(f"{n} of {requests} requests each way"))
    screen.info(f"{'us':<16}{'P50':>8}{'P99':>8}")
    marks = {name: [percentile(values, share) for share in (0.5, 0.99)] for name, values in found.items()}
    through, direct = marks["two sidecars"], marks["direct"]
    marks["added by a hop"] = [(there - here) / 2 for there, here in zip(through, direct, strict=True)]
    for name, (p50, p99) in marks.items():
        screen.info(f"{name:<16}{p50:>8.0f}{p99:>8.0f}")
    cpus = len(os.sched_getaffinity(0))
    screen.info(
        f"one request at a time over kept connections, Python at both ends; {cpus} processors, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    p50, p99 = marks["added by a hop"]
    screen.check(
        all(len(values) == requests for values in found.values()),
        f"{requests} requests each way, all answered; a hop, mTLS included, added {p50:.0f} us at P50, "
        f"{p99:.0f} us at P99",
    )


ALL = (
    start,
    certificates,
    mutual_tls,
    tracing,
    calls,
    canary,
    live_change,
    control_plane_away,
    latency,
)
