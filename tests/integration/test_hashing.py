"""Consistent hashing through one worker: what requests are told apart by, and the cookie that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import free_port
from helpers.h2raw import dial
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

KEYS = 64  # of four endpoints each has one but once in 10^7 runs
ANY = 80  # requests that go anywhere


class Named(Upstream):
    """Answers with its own port, and keeps the heads that it saw."""

    def __init__(self) -> None:
        super().__init__(self.serve)
        self.heads: list[bytes] = []

    def serve(self, peer: Peer) -> None:
        while head := self.request(peer):
            self.heads.append(head)
            name = str(self.port).encode()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))


@pytest.fixture
def ups() -> Iterator[list[Named]]:
    yield [Named() for _ in range(4)]


def hashed(ups: list[Named], lb: str = "RING_HASH", **hash: Any) -> dict[str, Any]:
    config = simple_config(*[up.port for up in ups])
    config["clusters"][0].update(lb=lb, hash=hash)
    return config


def ask(proxy: WorkerProxy, target: str = "/", *lines: str) -> tuple[str, dict[str, str]]:
    """(who answered, fields of the answer)."""
    peer = proxy.dial()
    peer.send("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
    status, fields, body = peer.answer()
    peer.close()
    assert status == 200
    return body.decode(), {k.lower(): v for k, v in dict(fields).items()}


def who(proxy: WorkerProxy, target: str = "/", *lines: str) -> str:
    return ask(proxy, target, *lines)[0]


def spread(answers: list[str]) -> int:
    return len(set(answers))


@pytest.mark.parametrize("lb", ["RING_HASH", "MAGLEV"])
def test_a_header_decides(ups: list[Named], lb: str) -> None:
    with serving(*ups, config=hashed(ups, lb, on="header", name="x-user")) as proxy:
        first = {user: who(proxy, "/", f"X-User: {user}") for user in map(str, range(KEYS))}
        assert spread(list(first.values())) == 4
        for user, owner in first.items():
            assert who(proxy, "/elsewhere", "Other: 1", f"x-user:   {user}") == owner
        # without the header any will do
        assert spread([who(proxy) for _ in range(ANY)]) == 4


def test_of_several_fields_the_order_does_not_count(ups: list[Named]) -> None:
    with serving(*ups, config=hashed(ups, on="header", name="x-user")) as proxy:
        for i in range(12):
            one = who(proxy, "/", f"x-user: {i}", "x-user: b")
            assert who(proxy, "/", "x-user: b", f"x-user: {i}") == one


def test_http_2_has_the_host_as_authority(ups: list[Named]) -> None:
    with serving(*ups, config=hashed(ups, on="header", name="host")) as proxy:
        client = dial(proxy.port)
        first = {}
        for i in range(12):
            sid = client.request("GET", "/", authority=f"h{i}")
            first[i] = client.answer(sid).body.decode()
        client.close()
        assert spread(list(first.values())) > 1
        for i, owner in first.items():
            peer = proxy.dial()
            peer.send(f"GET / HTTP/1.1\r\nHost: h{i}\r\n\r\n".encode())
            assert peer.answer()[2].decode() == owner


def test_a_query_parameter_decides(ups: list[Named]) -> None:
    with serving(*ups, config=hashed(ups, on="query", name="id")) as proxy:
        first = {i: who(proxy, f"/?id={i}") for i in range(KEYS)}
        assert spread(list(first.values())) == 4
        for i, owner in first.items():
            assert who(proxy, f"/x?aid=9&b&id={i}&id=z&c=1") == owner
        # there, but empty: a key too
        assert spread([who(proxy, q) for q in ("/?id=", "/?id", "/?a=1&id=&b=2") for _ in range(5)]) == 1
        without = ("/", "/?", "/?xid=1", "/?id2=1")
        assert spread([who(proxy, q) for q in without for _ in range(ANY // 4)]) == 4


def test_the_clients_address_decides(ups: list[Named]) -> None:
    with serving(*ups, config=hashed(ups, on="source")) as proxy:
        assert spread([who(proxy, f"/{i}") for i in range(20)]) == 1


def test_an_existing_cookie_decides_and_none_is_made_without_a_ttl(ups: list[Named]) -> None:
    with serving(*ups, config=hashed(ups, on="cookie", name="user")) as proxy:
        first = {i: who(proxy, "/", f"Cookie: user={i}") for i in range(KEYS)}
        assert spread(list(first.values())) == 4
        for i, owner in first.items():
            assert who(proxy, "/", f"Cookie: a=b; xuser=9; user={i}; user=z") == owner
            assert who(proxy, "/", "Cookie: a=b", f'Cookie: c=d;user="{i}"') == owner
        answers = [ask(proxy, "/", "Cookie: user=; users=1") for _ in range(ANY)]
        assert spread([name for name, _ in answers]) == 4
        assert not any("set-cookie" in fields for _, fields in answers)


@pytest.mark.parametrize(
    ("more", "after"),
    [
        ({"ttl_s": 3600, "path": "/shop"}, "; Max-Age=3600; Path=/shop; HttpOnly"),
        ({"ttl_s": 0}, "; HttpOnly"),
        ({"ttl_s": 4_294_967_294, "path": "/"}, "; Max-Age=4294967294; Path=/; HttpOnly"),
    ],
)
def test_a_cookie_is_made_and_binds_its_client(ups: list[Named], more: dict[str, Any], after: str) -> None:
    with serving(*ups, config=hashed(ups, on="cookie", name="user", **more)) as proxy:
        made = {}
        for _ in range(12):
            owner, fields = ask(proxy)
            text = fields["set-cookie"]
            assert re.fullmatch(r'user="[0-9a-f]{16}"' + re.escape(after), text)
            cookie = text.split(";")[0]
            made[cookie] = owner
            for sent in (cookie, cookie.replace('"', "")):
                again, fields = ask(proxy, "/", f"Cookie: {sent}")
                assert again == owner and "set-cookie" not in fields
        assert len(made) > 1 and spread(list(made.values())) > 1


def test_odd_cookies_are_read_as_far_as_they_make_sense(ups: list[Named]) -> None:
    """The cookie that is made tells what was found."""
    there = ["user=1", "user=1;", ";;user=1", " ; user=1 ;", 'user="1"', 'user="', "user=a=b", "a;b;user=1"]
    missing = ["user", "user=", 'user=""', "user =1", "=user", "xuser=1", "user2=1", ";", '"', "user=;", "us"]
    with serving(*ups, config=hashed(ups, on="cookie", name="user", ttl_s=0)) as proxy:
        made = {line: "set-cookie" in ask(proxy, "/", f"Cookie: {line}")[1] for line in there + missing}
        assert made == {**dict.fromkeys(there, False), **dict.fromkeys(missing, True)}
        several = ask(proxy, "/", "Cookie: user", "Cookie: user=", "Cookie: user=7", "Cookie: user=8")
        assert "set-cookie" not in several[1]
        assert several[0] == who(proxy, "/", "Cookie: user=7")


def test_requests_of_one_connection_get_the_same_cookie(ups: list[Named]) -> None:
    """A page asks for its pictures before it has the cookie: they must not be bound elsewhere."""
    with serving(*ups, config=hashed(ups, on="cookie", name="user", ttl_s=5)) as proxy:
        client = dial(proxy.port)
        sids = [client.request("GET", f"/{i}") for i in range(8)]
        answers = [client.answer(sid) for sid in sids]
        assert len({a["set-cookie"] for a in answers}) == 1
        assert len({bytes(a.body) for a in answers}) == 1
        client.close()


def test_the_cookie_goes_beside_what_the_route_adds_and_what_the_application_sets() -> None:
    def serve(peer: Peer) -> None:
        while up.request(peer):
            peer.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: own=1\r\nContent-Length: 2\r\n\r\nok")

    up = Upstream(serve)
    config = simple_config(up.port, response_headers={"add": [["x-route", "yes"]]})
    config["clusters"][0].update(lb="MAGLEV", hash={"on": "cookie", "name": "u", "ttl_s": 1})
    with serving(up, config=config) as proxy:
        peer = proxy.dial()
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = peer.head().decode().lower()
        assert "set-cookie: own=1\r\n" in head and "x-route: yes\r\n" in head
        assert re.search(r'set-cookie: u="[0-9a-f]{16}"; max-age=1; httponly\r\n', head)


def test_a_retry_of_a_hashed_request_goes_to_another_and_always_the_same(ups: list[Named]) -> None:
    config = hashed(ups, on="header", name="x-user")
    nobody = {"address": "127.0.0.1", "port": free_port()}
    config["clusters"][0]["endpoints"].append(nobody)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    route["retries"] = {"attempts": 1, "retry_on": ["connect-failure"], "backoff_ms": 1}
    with serving(*ups, config=config) as proxy:
        first = {i: who(proxy, "/", f"x-user: {i}") for i in range(KEYS)}
        tried_again = proxy.counter("rq_retry")
        assert 0 < tried_again < KEYS / 2
        assert {i: who(proxy, "/", f"x-user: {i}") for i in range(KEYS)} == first
        assert proxy.counter("rq_retry") == 2 * tried_again
