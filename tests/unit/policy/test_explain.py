"""_core/proxy/explain and agent/explain: the matcher's verdict, what failed, and that nothing of it stays."""

from __future__ import annotations

import gc
import os
import re
from typing import Any

import pytest
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.proxy import explain as core
from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import Segment
from fastmesh.agent import explain
from fastmesh.commands.explained import Text
from fastmesh.compile.cells import CellMap
from helpers.irconf import cluster, config, packed, route, vhost


def head(path: str = "/", *fields: str, host: str = "a", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()


def cond(on: str, op: str, **more: Any) -> dict[str, Any]:
    return {"on": on, "op": op, **more}


SECOND = [cond("method", "exact", value="GET"), cond("header", "exact", name="h", value="1")]
NOT = [cond("header", "present", name="skip", negate=True), cond("query", "regex", name="q", value="a+")]
ROUTES = (
    route("path", path={"op": "prefix", "value": "/x"}),
    route("second", conds=SECOND),
    route("not", conds=NOT),
    route("last", timeout_ms=1500, retries={"attempts": 2, "retry_on": ["5xx"], "per_try_timeout_ms": 200}),
)


def test_the_first_condition_that_does_not_hold_is_named() -> None:
    snapshot = packed(config(vhost(["a"], *ROUTES)))
    found = core.explain(snapshot, "outbound", head("/", "skip: 1"), False)
    assert [(r["name"], r["failed"]) for r in found["passed"]] == [
        ("path", "path"),
        ("second", 1),
        ("not", 0),
    ]
    assert found["route"]["name"] == "last" and found["route"]["index"] == 3
    assert found["action"]["timeout_ms"] == 1500
    assert found["action"]["retries"]["attempts"] == 2
    assert found["action"]["retries"]["per_try_timeout_ms"] == 200
    found = core.explain(snapshot, "outbound", head("/?q=b", method="PUT"), False)
    assert [(r["name"], r["failed"]) for r in found["passed"]] == [
        ("path", "path"),
        ("second", 0),
        ("not", 1),
    ]
    found = core.explain(snapshot, "outbound", head("/?q=aa"), False)
    assert found["route"]["name"] == "not"


def test_another_generation_has_patterns_of_its_own() -> None:
    def pattern(text: str, more: int) -> bytes:
        conds = [cond("header", "regex", name="h", value=text)]
        others = [route("no", conds=[cond("header", "regex", name="z", value=f"z{i}")]) for i in range(more)]
        return packed(config(vhost(["a"], *others, route("r", conds=conds))))

    one, two = pattern("one", 0), pattern("two", 5)
    for _ in range(3):
        for text, snapshot in (("one", one), ("two", two), ("two", two), ("one", one)):
            for said in ("one", "two"):
                found = core.explain(snapshot, "outbound", head("/", f"h: {said}"), False)
                assert found["outcome"] == ("forward" if said == text else "refused")


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what is freed")
def test_nothing_is_left_of_many_questions() -> None:
    conds = [[cond("header", "regex", name="h", value=f"(a|b){{{i}}}[0-9]+x*")] for i in range(1, 60)]
    snapshot = packed(config(vhost(["a"], *(route(f"r{i}", conds=c) for i, c in enumerate(conds)))))

    def ask(times: int) -> int:
        for _ in range(times):
            core.explain(snapshot, "outbound", head("/", "h: q"), False)
            found = core.explain(snapshot, "outbound", b"nonsense\r\n\r\n", False)
            assert found["outcome"] == "refused"
        gc.collect()
        return resident()

    before = ask(50)
    # 59 patterns of some kilobytes each: kept 200 times over they would take more than 20 MiB
    assert ask(200) - before < 4 << 20


def test_bytes_that_are_no_snapshot_and_listeners_that_are_not_there() -> None:
    snapshot = packed(config(vhost(["a"], route())))
    with pytest.raises(KeyError):
        core.explain(snapshot, "inbound", head(), False)
    for bad in (b"", b"x" * 5000, snapshot[:-8], snapshot[:-1] + b"?"):
        with pytest.raises(ValueError, match="no snapshot"):
            core.explain(bad, "outbound", head(), False)


@pytest.mark.parametrize(
    "bytes_",
    [head()[:-2], head() + b"x", head() + head(), b"", b"\r\n"],
    ids=["cut", "more", "two", "none", "line"],
)
def test_bytes_that_are_not_exactly_one_head(bytes_: bytes) -> None:
    found = core.explain(packed(config(vhost(["a"], route()))), "outbound", bytes_, False)
    assert found["outcome"] == "refused"
    assert found["answer"]["status"] in (0, 400)


# --- the question


@pytest.mark.parametrize(
    ("url", "authority", "target", "port"),
    [
        ("http://a", "a", "/", 80),
        ("HTTPS://a?x=1", "a", "/?x=1", 443),
        ("http://a:99/p?q=http://b", "a:99", "/p?q=http://b", 99),
        ("http://[::1]:7/", "[::1]:7", "/", 7),
    ],
)
def test_urls(url: str, authority: str, target: str, port: int) -> None:
    made = explain.Question("GET", url)
    assert (made.authority, made.target, made.url_port) == (authority, target, port)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("a/b", []),
        ("ftp://a/", []),
        ("http:///x", []),
        ("http://a/#x", []),
        ("http://u:p@a/", []),
        ("http://a/", ["no colon"]),
        ("http://a/", [": x"]),
        ("http://a/", ["x: y\r\nHost: b"]),
        ("http://a/\r\nx: y", []),
        ("http://a/", ["host: b", "Host: c"]),
    ],
)
def test_questions_that_cannot_be_asked(url: str, headers: list[str]) -> None:
    with pytest.raises(explain.Usage):
        explain.Question("GET", url, headers)


def listener(name: str, kind: str, port: int, tls: str = "disable") -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "port": port,
        "tls_mode": tls,
        "https_redirect": False,
        "protocol": "http",
    }


GATES = [
    listener("plain", "gateway", 80),
    listener("alt", "gateway", 8080),
    listener("tls", "gateway", 8443, "strict"),
]
SIDE = [listener("inbound", "inbound", 15006, "strict"), listener("outbound", "outbound", 15001)]


@pytest.mark.parametrize(
    ("there", "url", "more", "want"),
    [
        (GATES, "http://a/", {}, "plain"),
        (GATES, "http://a:8080/", {}, "alt"),
        (GATES, "http://a:9999/", {}, None),
        (GATES, "https://a/", {}, "tls"),
        (GATES, "http://a/", {"port": 8080}, "alt"),
        (GATES, "http://a/", {"listener": "alt"}, "alt"),
        (GATES, "http://a/", {"listener": "x"}, None),
        (GATES, "http://a/", {"inbound": True}, None),
        (SIDE, "http://a:9080/", {}, "outbound"),
        (SIDE, "http://a:9080/", {"inbound": True}, "inbound"),
    ],
)
def test_the_listener(there: list[dict[str, Any]], url: str, more: dict[str, Any], want: str | None) -> None:
    question = explain.Question("GET", url, **more)
    if want is None:
        with pytest.raises(explain.Usage, match="there are"):
            explain.pick_listener(question, there)
    else:
        assert explain.pick_listener(question, there)["name"] == want


def test_sources_and_destinations_that_cannot_be_used() -> None:
    made = config(
        vhost(["x"], route("x")),
        vhost(
            ["a"],
            route("one", path={"op": "exact", "value": "/1"}, origin="here"),
            route(
                "two",
                dests=[{"cluster": "none", "weight": 1}, {"cluster": "empty", "weight": 3}],
                origin="there",
            ),
        ),
        clusters=[cluster("c", 1), cluster("empty")],
    )
    found = explain.ask(packed(made), explain.Question("GET", "http://a/"), made)  # type: ignore[arg-type]
    assert found["passed"][0]["source"] == "here" and found["route"]["source"] == "there"
    assert found["virtual_host"]["domains"] == ["a"]
    dests = found["action"]["destinations"]
    assert [(d["weight"], d["answer"]["status"], d["answer"]["flags"]) for d in dests] == [
        (1, 503, ["NC"]),
        (3, 503, ["UH"]),
    ]
    assert found["served"] is False


# --- state of endpoints

QUESTION = explain.Question("GET", "http://a/")


def test_what_the_workers_use_now() -> None:
    segment = Segment.create(1)
    made = config(vhost(["a"], route()), clusters=[cluster("c", 1, 2)])
    segment.publish(packed(made, CellMap(segment)))
    found = explain.ask(segment.current_bytes(), explain.Question("GET", "http://a/"))
    there = found["action"]["destinations"][0]["cluster"]
    explain.add_state(segment, there, 1)
    assert there["in_use"] == clusters.stats(segment, there["cell"])
    assert [(e["health"], e["in_flight"], e["used"]) for e in there["endpoints"]] == [
        ("healthy", 0, True)
    ] * 2


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize("ejected", [(), (0,), (1, 2), (0, 1, 2)])
def test_the_endpoints_that_are_used_are_those_that_the_balancer_takes(
    ejected: tuple[int, ...], outlier: bool
) -> None:
    segment = Segment.create(1)
    more: dict[str, Any] = {"outlier": {}} if outlier else {}
    made = config(vhost(["a"], route()), clusters=[cluster("c", 1, 2, 3, lb="RANDOM", **more)])
    segment.publish(packed(made, CellMap(segment)))
    worker = WorkerView(segment, 0)
    found = explain.ask(segment.current_bytes(), QUESTION)
    there = found["action"]["destinations"][0]["cluster"]
    now = 1_000_000_000
    for i in ejected:
        worker.eject(there["endpoints"][i]["cell"], now * 3)
    balancer = Balancer(Frozen(segment.current_bytes()), worker)
    taken = set(balancer.pick("c", 300, now=now)) - {None}
    explain.add_states(segment, found, segment.current_bytes(), QUESTION, now)
    explain.judge(found)
    assert {e["address"] for e in there["endpoints"] if e["used"]} == taken
    assert [i for i, e in enumerate(there["endpoints"]) if e["health"] == "ejected"] == list(ejected)
    assert all(e["ejected_ms"] == 2000 for e in there["endpoints"] if e["health"] == "ejected")
    assert found["served"] == bool(taken)
    if not taken:
        assert found["action"]["destinations"][0]["answer"]["flags"] == ["UH"]
    assert "not used" in Text().of(found) or len(taken) == 3


def test_text_that_config_holds_does_not_steer_a_terminal() -> None:
    made = config(vhost(["a"], route("\x1b[31mred", direct={"status": 200, "body": b"x"})))
    found = explain.ask(packed(made), explain.Question("GET", "http://a/"))
    assert "\x1b" not in Text().of(found)
    assert "\x1b[1m" in Text(terminal=True).of(found)


def test_every_kind_of_action_is_shown() -> None:
    rewriting = route(
        "fwd",
        path={"op": "prefix", "value": "/f"},
        rewrite={"path": "/g", "authority": "other"},
        request_headers={"set": [["x-a", "1"]], "remove": ["x-b"]},
        fault={"delay_ppm": 500_000, "delay_ms": 1500, "abort_ppm": 10_000, "abort_status": 418},
        retries={"attempts": 2, "retry_on": ["5xx", "retriable-status-codes"], "statuses": [429]},
    )
    made = config(
        vhost(
            ["a"],
            rewriting,
            route("red", path={"op": "prefix", "value": "/r"}, redirect={"code": 308, "prefix": "/z"}),
            route("dir", direct={"status": 201, "body": b"made"}),
        )
    )

    def shown(path: str) -> str:
        return Text().of(explain.ask(packed(made), explain.Question("GET", f"http://a{path}"), None))

    text = shown("/f/1")
    for part in (
        "the first 2 bytes of the path become /g", "host becomes other", "set x-a: 1", "remove x-b", "[429]",
        "50 % wait 1.5 s", "1 % are answered 418, FI", "up to 2, on 5xx",
    ):  # fmt: skip
        assert part in text, text
    assert re.search(r"^  sends +/g/1 with Host other$", text, re.M)
    assert "308, a redirect to http://a/z/2?q" in shown("/r/2?q")
    assert "201, a direct response: 'made'" in shown("/")
    nowhere = Text().of(explain.ask(packed(made), explain.Question("GET", "http://b/")))
    assert "404 NR: no route" in nowhere and "no virtual host is for b" in nowhere


def test_listeners_that_take_tls_only_or_send_to_https() -> None:
    made = config(vhost(["a"], route()))
    made["listeners"][0] |= {"kind": "gateway", "https_redirect": True}
    found = explain.ask(packed(made), explain.Question("GET", "http://a/"))
    assert (found["outcome"], found["served"]) == ("https_redirect", True)
    assert "301, a redirect to https://a/ (the listener's tls.httpsRedirect)" in Text().of(found)
