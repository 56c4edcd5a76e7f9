"""`explain` against what really happens: generated configs, generated requests, a real worker's answers and
what its upstreams really got."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastmesh._core.proxy.explain import explain
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from fastmesh.compile.tables import RETRY_ON
from helpers.irconf import cluster
from helpers.worker import Peer, Upstream, WorkerProxy, serving

# Together 12,000 requests.
CONFIGS, REQUESTS = 60, 200
BATCH = 25  # pipelined: their bytes and their answers fit into the buffers of a socket
MALFORMED = 400

HOSTS = [
    "a.test",
    "b.test",
    "x.a.test",
    "y.x.a.test",
    "A.Test",
    "a.test:80",
    "a.test:99",
    "b.test.",
    "other",
    "z.b.test:80",
]
DOMAINS = ["a.test", "*.a.test", "b.test", "*.b.test", "a.test:99", "*.x.a.test", "*.b.test:80", "*"]
PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/A/b", "/c/1", "/c/12x", "/long/way/down"]
WORDS = ["", "a", "ab", "abc", "1", "12", "A", "b,a"]
NAMES = ["x-one", "x-two", "cookie", "user-agent"]
REGEXES = ["a.*", "[0-9]+", "", "(a|b)c?", ".*b"]
METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"]
CLUSTERS = ["pair", "pair", "one", "hashed", "failing", "failing", "empty", "unknown"]

# --- configs


def value_of(rng: random.Random, values: list[str]) -> dict[str, Any]:
    op = rng.choice(["exact", "prefix", "suffix", "regex"])
    made = {"op": op, "value": rng.choice(REGEXES if op == "regex" else values)}
    return {**made, "ignore_case": True} if rng.random() < 0.3 else made


def condition(rng: random.Random) -> dict[str, Any]:
    on = rng.choice(["header", "header", "header", "query", "query", "method", "authority", "scheme", "port"])
    made: dict[str, Any] = {"on": on}
    if on == "port":
        made |= {"op": "exact", "number": rng.choice([80, 80, 81])}
    elif on == "method":
        made |= {"op": "exact", "value": rng.choice(METHODS)}
    elif on == "authority":
        made |= value_of(rng, HOSTS)
    elif on == "scheme":
        made |= {"op": "exact", "value": rng.choice(["http", "http", "https"])}
    else:
        made["name"] = rng.choice(NAMES if on == "header" else ["q", "r"])
        made |= {"op": "present"} if rng.random() < 0.25 else value_of(rng, WORDS)
    if rng.random() < 0.3:
        made["negate"] = True
    return made


def header_ops(rng: random.Random, word: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if rng.random() < 0.5:
        made["set"] = [[rng.choice([*NAMES, "x-new"]), word]]
    if rng.random() < 0.3:
        made["add"] = [["x-added", word]]
    if rng.random() < 0.3:
        made["remove"] = [rng.choice(NAMES)]
    return made


def redirect(rng: random.Random, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"code": rng.choice([301, 302, 307, 308])}
    if rng.random() < 0.6:
        made["authority"] = name
    if rng.random() < 0.5:
        made[rng.choice(["path", "prefix"])] = rng.choice(PATHS)
    if rng.random() < 0.3:
        made["scheme"] = rng.choice(["http", "https"])
    if rng.random() < 0.3:
        made["port"] = rng.choice([80, 443, 8080])
    return made


def retries(rng: random.Random) -> dict[str, Any]:
    on = rng.sample(["connect-failure", "5xx", "gateway-error", "retriable-4xx", "retriable-status-codes"], 2)
    made: dict[str, Any] = {"attempts": rng.randint(0, 3), "retry_on": on, "backoff_ms": 0}
    if rng.random() < 0.5:
        made["statuses"] = [rng.choice([429, 503])]
    if rng.random() < 0.3:
        made["per_try_timeout_ms"] = rng.choice([20_000, 50_000])
    return made


def forward(rng: random.Random, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"dests": []}
    for i, to in enumerate(rng.sample(CLUSTERS, rng.randint(1, 3))):
        ops = header_ops(rng, f"{name}-{i}")
        # names the destination that chance has chosen
        ops.setdefault("set", []).append(["x-dest", str(i)])
        dest = {"cluster": to, "weight": rng.choice([0, 1, 2, 5]), "request_headers": ops}
        if rng.random() < 0.3:
            dest["response_headers"] = {"set": [["x-answered-by", f"{name}/{i}"]]}
        made["dests"].append(dest)
    if rng.random() < 0.4:
        made["rewrite"] = {"path": rng.choice(PATHS)}
    if rng.random() < 0.2:
        made["rewrite"] = {**made.get("rewrite", {}), "authority": "rewritten"}
    if rng.random() < 0.4:
        made["timeout_ms"] = rng.choice([30_000, 60_000])
    if rng.random() < 0.5:
        made["retries"] = retries(rng)
    if rng.random() < 0.1:
        made["fault"] = {"abort_ppm": rng.choice([0, 1_000_000]), "abort_status": 418, "delay_ppm": 0}
    return made


def route(rng: random.Random, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "conds": [condition(rng) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))],
    }
    if rng.random() < 0.7:
        op = rng.choice(["exact", "prefix", "path_prefix", "regex"])
        path: dict[str, Any] = {"op": op, "value": rng.choice(PATHS)}
        if op == "regex":
            path["value"] = rng.choice(["/a.*", "/c/[0-9]+", "/(a|c)/.*"])
        if rng.random() < 0.2:
            path["ignore_case"] = True
        made["path"] = path
    if rng.random() < 0.4:
        made["request_headers"] = header_ops(rng, name)
    if rng.random() < 0.4:
        made["response_headers"] = {"set": [["x-route", name]]}
    kind = rng.choice(["forward", "forward", "forward", "direct", "direct", "redirect"])
    if kind == "direct":
        status = rng.choice([200, 204, 403, 503])
        made["direct"] = {"status": status, "body": b"" if status == 204 else name.encode()}
    elif kind == "redirect":
        made["redirect"] = redirect(rng, name)
    else:
        made |= forward(rng, name)
    return made


def config(rng: random.Random, ports: dict[str, list[int]]) -> dict[str, Any]:
    hosts = []
    for k, domain in enumerate(rng.sample(DOMAINS, rng.randint(2, 6))):
        routes = [route(rng, f"v{k}r{i}") for i in range(rng.randint(1, 12))]
        hosts.append({"name": f"v{k}", "domains": [domain], "routes": routes})
    listener = {"name": "l", "kind": "gateway", "address": "127.0.0.1", "port": 80, "table": "t"}
    if rng.random() < 0.05:
        listener["https_redirect"] = True
    hashing = {"lb": rng.choice(["RING_HASH", "MAGLEV"]), "hash": {"on": "header", "name": "x-one"}}
    return {
        "node_id": "test",
        "listeners": [listener],
        "tables": [{"name": "t", "virtual_hosts": hosts}],
        "clusters": [
            cluster("pair", *ports["pair"], lb=rng.choice(["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"])),
            cluster("one", *ports["pair"][:1]),
            cluster("hashed", *ports["pair"], *ports["failing"], **hashing),
            cluster("failing", *ports["failing"]),
            cluster("empty"),
        ],
        "tls": [],
    }


# --- requests


def request(rng: random.Random) -> bytes:
    host = rng.choice(HOSTS)
    query = "&".join(f"{rng.choice('qrs')}={rng.choice(WORDS)}" for _ in range(rng.choice([0, 0, 1, 2])))
    target = rng.choice(PATHS) + (f"?{query}" if query else "")
    if rng.random() < 0.1:
        target = f"{rng.choice(['http', 'https'])}://{host}{target}"
    lines = [f"{rng.choice(METHODS)} {target} HTTP/1.1", f"Host: {host}"]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        lines.append(f"{rng.choice([*NAMES, 'X-One'])}: {rng.choice(WORDS)}")
    if rng.random() < 0.1:
        lines.append(f"Connection: {rng.choice(NAMES[:2])}")  # takes it away before routes are looked at
    if rng.random() < 0.1:
        lines.append(f"x-envoy-expected-rq-timeout-ms: {rng.choice(['0', '25000', '99000', 'soon'])}")
    if rng.random() < 0.05:
        lines += ["content-type: application/grpc", "te: trailers"]
        if rng.random() < 0.5:
            lines.append(f"grpc-timeout: {rng.choice(['0m', '40S', '2H'])}")
    return "\r\n".join([*lines, "", ""]).encode()


# --- what really happens


class Echo(Upstream):
    """Answers with what it got."""

    def __init__(self, status: str) -> None:
        super().__init__()
        self.status = status

    def serve(self, peer: Peer) -> None:
        while head := self.request(peer):
            lines = head.decode("latin-1").split("\r\n")
            fields = [line.partition(":")[::2] for line in lines[1:] if line]
            body = json.dumps(
                {
                    "port": self.port,
                    "target": lines[0].split(" ")[1],
                    "headers": [[name.lower(), value.strip()] for name, value in fields],
                }
            ).encode()
            peer.send(f"HTTP/1.1 {self.status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@pytest.fixture
def upstreams() -> Iterator[dict[str, list[Echo]]]:
    yield {"pair": [Echo("200 OK"), Echo("200 OK")], "failing": [Echo("503 Down")]}


Got = tuple[int, dict[str, str], bytes]


def answers(proxy: WorkerProxy, heads: list[bytes]) -> list[Got]:
    found = []
    peer = proxy.dial()
    try:
        for at in range(0, len(heads), BATCH):
            batch = heads[at : at + BATCH]
            peer.send(b"".join(batch))
            found += [peer.answer() for _ in batch]
    finally:
        peer.close()
    return found


# --- what must be the same

# Made by chance, by the clock, from the peer's address, or by the codec of one connection.
NOT_KNOWN = {"x-request-id", "traceparent", "x-forwarded-for", "connection", "te", "date", "keep-alive"}
LEFT = {"x-envoy-expected-rq-timeout-ms", "grpc-timeout"}


def known(headers: Any, more: set[str] = frozenset()) -> list[tuple[str, str]]:  # type: ignore[assignment]
    pairs = [(name.lower(), value) for name, value in headers]
    return sorted(pair for pair in pairs if pair[0] not in NOT_KNOWN | more)


def left_ms(headers: Any) -> dict[str, int]:
    units = {"H": 3_600_000, "M": 60_000, "S": 1000, "m": 1, "u": 0.001, "n": 0.000001}
    made = {}
    for name, value in headers:
        if name == "grpc-timeout":
            made[name] = int(int(value[:-1]) * units[value[-1]])
        elif name == "x-envoy-expected-rq-timeout-ms":
            made[name] = int(value)
    return made


def is_answer(said: dict[str, Any], got: Got) -> bool:
    status, fields, body = got
    return (
        said["status"] == status
        and said["body"].encode() == body
        and known(said["headers"]) == known(fields.items())
    )


def tries_of(action: dict[str, Any], status: int) -> int:
    """How many attempts a destination that always answers with this status gets."""
    plan = action["retries"]
    on = {name for name, bit in RETRY_ON.items() if plan["retry_on"] & bit}
    again = (
        ("5xx" in on and status >= 500)
        or ("gateway-error" in on and status in (502, 503, 504))
        or ("retriable-status-codes" in on and status in plan["statuses"])
    )
    return 1 + plan["attempts"] if again else 1


def was_sent(found: dict[str, Any], got: Got) -> str:
    """What is wrong with an answer of an upstream; "" when it is as it was explained."""
    action = found["action"]
    status, fields, body = got
    try:
        seen = json.loads(body)
    except ValueError:
        return "no upstream has answered"
    number = next(value for name, value in seen["headers"] if name == "x-dest")
    dest = action["destinations"][int(number)]
    if "sent" not in dest or not dest["weight"]:
        return f"destination {number} cannot have been chosen"
    sent = dest["sent"]
    address = f"127.0.0.1:{seen['port']}"
    if address not in [endpoint["address"] for endpoint in dest["cluster"]["endpoints"]]:
        return f"{address} is none of its endpoints"
    if seen["target"] != sent["target"]:
        return "target"
    attempts = LEFT | {"x-envoy-attempt-count"}
    got_fields, sent_fields = known(seen["headers"], attempts), known(sent["headers"], attempts)
    if got_fields != sent_fields:
        return f"headers: {set(got_fields) ^ set(sent_fields)}"
    said, told = left_ms(sent["headers"]), left_ms(seen["headers"])
    if said.keys() != told.keys() or any(told[name] > said[name] for name in said):
        return f"time left: {told} of {said}"
    tried = next(int(value) for name, value in seen["headers"] if name == "x-envoy-attempt-count")
    if "hash_endpoint" in dest and tried == 1 and address != dest["hash_endpoint"]:
        return f"{address} is not the key's"
    # a cluster by hash has endpoints that fail and others
    if dest["cluster"]["name"] != "hashed" and tried != tries_of(action, status):
        return f"{tried} attempts"
    for op in [*action["response_headers"], *dest["response_headers"]]:
        if fields.get(op["name"]) != op["value"]:
            return f"response header {op['name']}"
    return ""


def disagreement(found: dict[str, Any], got: Got) -> str:
    """What is not as it was explained, or ""."""
    if found["outcome"] != "forward":
        return "" if is_answer(found["answer"], got) else "another answer"
    refusals = [d["answer"] for d in found["action"]["destinations"] if d["weight"] and "answer" in d]
    if any(is_answer(each, got) for each in refusals):
        return ""
    return was_sent(found, got)


# Each must have come often enough: an outcome that no request has is not looked at.
OUTCOMES = ("direct", "redirect", "https_redirect", "forward", "refused")
DESTINATIONS = ("sent", "NC", "UH", "UT", "FI")


def test_what_is_explained_is_what_happens(upstreams: dict[str, list[Echo]]) -> None:
    rng = random.Random(20261126)
    ports = {name: [each.port for each in some] for name, some in upstreams.items()}
    seen: Counter[str] = Counter()
    first = config(rng, ports)
    with serving(*upstreams["pair"], *upstreams["failing"], config=first) as proxy:
        for number in range(CONFIGS):
            made = first if number == 0 else config(rng, ports)
            proxy.publish(made)
            snapshot = proxy.segment.current_bytes()
            heads = [request(rng) for _ in range(REQUESTS)]
            for head, got in zip(heads, answers(proxy, heads), strict=True):
                found = explain(snapshot, "l", head, False)
                wrong = disagreement(found, got)
                assert not wrong, (wrong, number, head, got, found)
                flags = found.get("answer", {}).get("flags", [])
                seen.update([found["outcome"], *flags])
                for dest in found.get("action", {}).get("destinations", ()):
                    seen.update(["sent"] if "sent" in dest else dest["answer"]["flags"])
                # whatever was passed over, what did not hold is named
                assert [r["index"] for r in found["passed"]] == list(range(len(found["passed"])))
                assert all(r["failed"] == "path" or r["conditions"][r["failed"]] for r in found["passed"])
    assert all(seen[outcome] > 50 for outcome in (*OUTCOMES, *DESTINATIONS, "NR")), seen


def mutated(rng: random.Random, head: bytes) -> bytes:
    """A byte or two put in, taken out or replaced; never a line end, so that it stays one head."""
    made = bytearray(head[:-4])
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(made))
        if made[at] in b"\r\n" or made[at - 1 : at] in (b"\r", b"\n"):
            continue
        byte = bytes([rng.choice(b"\0\t\r :;(/\x7f\x80\xff%#,")])
        made[at : at + rng.randint(0, 1)] = byte if rng.random() < 0.8 else b""
    return bytes(made) + head[-4:]


def one_answer(proxy: WorkerProxy, head: bytes) -> Got | None:
    """None: the connection was closed without one."""
    peer = proxy.dial()
    try:
        peer.send(head)
        return peer.answer()
    except IndexError:
        return None  # no status line
    finally:
        peer.close()


def agrees(found: dict[str, Any], got: Got | None) -> str:
    if got is None or found.get("answer", {}).get("status") == 0:
        closed = found["outcome"] != "forward" and found["answer"]["status"] == 0
        return "" if closed and got is None else "one of both is closed"
    return disagreement(found, got)


def test_malformed_requests(upstreams: dict[str, list[Echo]]) -> None:
    rng = random.Random(7)
    made = config(rng, {name: [each.port for each in some] for name, some in upstreams.items()})
    made["listeners"][0].pop("https_redirect", None)
    refused = 0
    with serving(*upstreams["pair"], *upstreams["failing"], config=made) as proxy:
        snapshot = proxy.segment.current_bytes()
        for _ in range(MALFORMED):
            head = mutated(rng, request(rng))
            found = explain(snapshot, "l", head, False)
            wrong = agrees(found, one_answer(proxy, head))
            assert not wrong, (wrong, head, found)
            refused += "DPE" in found.get("answer", {}).get("flags", [])
    assert refused > MALFORMED // 4


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx: \x01\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        b"GET / GOPHER\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 120 + b"\r\n",
    ],
)
def test_what_a_worker_refuses_is_refused_with_its_status_and_reason(head: bytes) -> None:
    made = config(random.Random(1), {"pair": [9, 10], "failing": [11]})
    with serving(config=made) as proxy:
        got = one_answer(proxy, head)
    found = explain(pack(made, CellMap()), "l", head, False)  # type: ignore[arg-type]
    assert found["outcome"] == "refused"
    assert not agrees(found, got), (found, got)
