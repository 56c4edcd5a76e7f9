"""`explain` against what really happens: random configs, random requests, a real worker's answers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastmesh._core.proxy.explain import RequestRefused, explain
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from helpers.irconf import cluster
from helpers.worker import Peer, Upstream, WorkerProxy, serving

# Together 12,000 requests.
CONFIGS, REQUESTS = 48, 250
BATCH = 50  # pipelined: their bytes fit into the buffers of a socket

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
    chance = rng.random()
    if chance < 0.75:
        made["direct"] = {"status": 200, "body": name.encode()}
    elif chance < 0.8:
        made["redirect"] = {"code": 302, "authority": name, "path": "/there"}
    else:
        clusters = rng.sample(["up", "up", "empty", "unknown"], rng.randint(1, 3))
        made["dests"] = [
            {
                "cluster": to,
                "weight": rng.randint(1, 9),
                "request_headers": {"set": [["x-dest", f"{name}/{i}/{to}"]]},
            }
            for i, to in enumerate(clusters)
        ]
    return made


def config(rng: random.Random, port: int) -> dict[str, Any]:
    hosts = []
    for k, domain in enumerate(rng.sample(DOMAINS, rng.randint(2, 6))):
        routes = [route(rng, f"v{k}r{i}") for i in range(rng.randint(1, 12))]
        hosts.append({"name": f"v{k}", "domains": [domain], "routes": routes})
    return {
        "node_id": "test",
        "listeners": [{"name": "l", "kind": "gateway", "address": "127.0.0.1", "port": 80, "table": "t"}],
        "tables": [{"name": "t", "virtual_hosts": hosts}],
        "clusters": [cluster("up", port), cluster("empty")],
        "tls": [],
    }


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
    return "\r\n".join([*lines, "", ""]).encode()


def tell_destination(upstream: Upstream, peer: Peer) -> None:
    """Answers with the destination that the proxy has chosen."""
    while head := upstream.request(peer):
        found = [line[8:] for line in head.split(b"\r\n") if line.lower().startswith(b"x-dest: ")]
        body = found[0] if found else b""
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def possible(found: dict[str, Any]) -> set[tuple[int, str]]:
    """(status, body or location) of all answers that may come when `explain` is right."""
    if found["outcome"] == "no_route":
        return {(404, "no route\n")}
    action, name = found["action"], found["route"]["name"]
    if found["outcome"] == "direct":
        assert action["body"] == name
        return {(200, name)}
    if found["outcome"] == "redirect":
        assert action["authority"] == name
        return {(302, f"http://{name}/there"), (302, f"https://{name}/there")}
    made = set()
    for dest in action["destinations"]:
        told = next(op["value"] for op in dest["request_headers"] if op["name"] == "x-dest")
        if dest["cluster"] is None:
            made.add((503, "no such cluster\n"))
        elif not dest["cluster"]["endpoints"]:
            made.add((503, "no healthy upstream\n"))
        else:
            made.add((200, told))
    return made


def answers(proxy: WorkerProxy, heads: list[bytes]) -> list[tuple[int, str]]:
    found = []
    peer = proxy.dial()
    try:
        for at in range(0, len(heads), BATCH):
            batch = heads[at : at + BATCH]
            peer.send(b"".join(batch))
            for _ in batch:
                status, fields, body = peer.answer()
                # a redirect keeps the query
                found.append((status, fields.get("location", "").partition("?")[0] or body.decode()))
    finally:
        peer.close()
    return found


def test_what_is_explained_is_what_happens() -> None:
    rng = random.Random(20261126)
    seen: dict[str, int] = {}
    upstream = Upstream()
    upstream.handler = lambda peer: tell_destination(upstream, peer)
    first = config(rng, upstream.port)
    with serving(upstream, config=first) as proxy:
        for round_ in range(CONFIGS):
            made = first if round_ == 0 else config(rng, upstream.port)
            proxy.publish(made)
            snapshot = proxy.segment.current_bytes()
            heads = [request(rng) for _ in range(REQUESTS)]
            for head, answer in zip(heads, answers(proxy, heads), strict=True):
                found = explain(snapshot, "l", head, False)
                assert answer in possible(found), (round_, head, found)
                seen[found["outcome"]] = seen.get(found["outcome"], 0) + 1
                # whatever was passed over, what did not hold is named
                assert [r["index"] for r in found["passed"]] == list(range(len(found["passed"])))
                assert all(r["failed"] == "path" or r["conditions"][r["failed"]] for r in found["passed"])
    assert sum(seen.values()) == CONFIGS * REQUESTS >= 10_000
    assert all(seen.get(outcome, 0) > 200 for outcome in ("direct", "redirect", "forward", "no_route")), seen


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
    made = config(random.Random(1), 9)
    with serving(config=made) as proxy:
        peer = proxy.dial()
        peer.send(head)
        status, _, body = peer.answer()
        peer.close()
    with pytest.raises(RequestRefused) as refused:
        explain(pack(made, CellMap()), "l", head, False)  # type: ignore[arg-type]
    assert (refused.value.status, f"{refused.value}\n") == (status, body.decode())
