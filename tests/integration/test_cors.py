"""corsPolicy through one worker, as a browser's CORS protocol (Fetch standard, 3.2) asks."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import free_port
from helpers.h2raw import dial
from helpers.worker import Upstream, WorkerProxy, serving, simple_config

POLICY = {
    "origins": [
        {"op": "exact", "value": "https://a.example"},
        {"op": "prefix", "value": "http://localhost:"},
        {"op": "regex", "value": r"https://[a-z]+\.b\.example"},
    ],
    "methods": ["GET", "PUT"],
    "headers": ["x-own", "content-type"],
    "expose": ["x-told"],
    "max_age_s": 600,
    "credentials": True,
}


def fields(answer: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in answer.items() if k.startswith("access-control-") or k == "vary"}


def ask(proxy: WorkerProxy, method: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
    peer = proxy.dial()
    peer.send((f"{method} /x HTTP/1.1\r\nHost: t\r\n" + "".join(f"{x}\r\n" for x in lines) + "\r\n").encode())
    try:
        return peer.answer()
    finally:
        peer.close()


PREFLIGHT = "Access-Control-Request-Method: PUT"


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("https://a.example", True),
        ("http://localhost:3000", True),
        ("https://shop.b.example", True),
        ("https://a.example.evil", False),
        ("http://a.example", False),
        ("HTTPS://A.EXAMPLE", False),
        ("https://shopxb.example", False),
        ("null", False),
    ],
)
def test_an_origin(origin: str, good: bool) -> None:
    up = Upstream()
    told = b"Access-Control-Allow-Origin: *\r\nX-Told: 1"
    up.response = b"HTTP/1.1 200 OK\r\n" + told + b"\r\nContent-Length: 2\r\n\r\nok"
    with serving(up, config=simple_config(up.port, cors=POLICY)) as proxy:
        status, head, body = ask(proxy, "GET", f"Origin: {origin}")
        assert (status, body) == (200, b"ok")
        if good:
            assert fields(head) == {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "access-control-expose-headers": "x-told",
                "vary": "origin",
            }
        else:
            assert fields(head) == {"access-control-allow-origin": "*"}  # the application's own, as it is
        status, head, body = ask(proxy, "OPTIONS", f"Origin: {origin}", PREFLIGHT)
        assert len(up.heads) == (1 if good else 2)  # what is not allowed goes on, as in Istio
        if good:
            assert (status, body) == (200, b"") and head["server"] == "fastmesh"
            assert fields(head) == {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "access-control-allow-methods": "GET,PUT",
                "access-control-allow-headers": "x-own,content-type",
                "access-control-max-age": "600",
                "vary": "origin",
            }
        counted = {name: proxy.counter(name) for name in ("cors_valid", "cors_invalid", "cors_preflight")}
        assert counted == (
            {"cors_valid": 2, "cors_invalid": 0, "cors_preflight": 1}
            if good
            else {"cors_valid": 0, "cors_invalid": 2, "cors_preflight": 0}
        )


def test_preflights_of_others_end_here_with_ignore() -> None:
    up = Upstream()
    config = simple_config(up.port, cors={**POLICY, "forward": False})
    with serving(up, config=config) as proxy:
        status, head, _ = ask(proxy, "OPTIONS", "Origin: https://evil.example", PREFLIGHT)
        assert status == 200 and fields(head) == {} and not up.heads
        assert proxy.counter("cors_preflight") == 1


def test_what_is_no_cross_origin_request_is_left_alone() -> None:
    up = Upstream()
    with serving(up, config=simple_config(up.port, cors=POLICY)) as proxy:
        for method, lines in (
            ("GET", []),
            ("OPTIONS", [PREFLIGHT]),
            ("OPTIONS", ["Origin: https://a.example"]),
            ("OPTIONS", ["Origin:", PREFLIGHT]),
        ):
            status, head, _ = ask(proxy, method, *lines)
            assert status == 200
            assert ("access-control-allow-origin" in head) == bool(lines == ["Origin: https://a.example"])
        assert len(up.heads) == 4


def test_every_origin_and_a_bare_policy() -> None:
    up = Upstream()
    with serving(up, config=simple_config(up.port, cors={"origins": [{"op": "any"}]})) as proxy:
        _, head, _ = ask(proxy, "OPTIONS", "Origin: x://y", PREFLIGHT)
        assert fields(head) == {"access-control-allow-origin": "x://y", "vary": "origin"}


def test_answers_of_the_proxy_say_it_too() -> None:
    """Else a script would not be told of a 503."""
    with serving(config=simple_config(free_port(), cors=POLICY)) as proxy:
        status, head, _ = ask(proxy, "GET", "Origin: https://a.example")
        assert status == 503 and head["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    "action",
    [{"direct": {"status": 200, "body": b"d"}}, {"redirect": {"code": 302, "path": "/y"}}],
    ids=["direct", "redirect"],
)
def test_direct_responses_and_redirects(action: dict[str, Any]) -> None:
    config = simple_config(1, cors=POLICY)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    del route["dests"]
    route.update(action)
    with serving(config=config) as proxy:
        status, head, _ = ask(proxy, "GET", "Origin: https://a.example")
        assert status == (200 if "direct" in action else 302)
        assert head["access-control-allow-origin"] == "https://a.example"
        status, head, body = ask(proxy, "OPTIONS", "Origin: https://a.example", PREFLIGHT)
        assert (status, body) == (200, b"") and head["access-control-max-age"] == "600"


def test_http2() -> None:
    up = Upstream()
    with serving(up, config=simple_config(up.port, cors=POLICY)) as proxy:
        client = dial(proxy.port)
        asked = [("origin", "https://a.example"), ("access-control-request-method", "PUT")]
        answer = client.answer(client.request("OPTIONS", "/", asked))
        assert answer.status == 200 and ("access-control-allow-methods", "GET,PUT") in answer.fields
        assert not up.heads
        client.close()
