"""HTTP/1.1 through one worker: what is passed on, what is changed, how messages end (RFC 9110, RFC 9112)."""

from __future__ import annotations

import hashlib
import os
import re
import threading

import pytest

from helpers.worker import Peer, Upstream, serving, simple_config

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def fields_of(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)]


def test_one_connection_serves_many_requests_over_one_upstream_connection():
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        for _ in range(20):
            client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.answer()[::2] == (200, b"ok")
        assert up.connections == 1
        assert proxy.counter("up_cx_reused") == 19


def test_names_keep_their_case_and_order_and_hop_by_hop_fields_stay_behind():
    up = Upstream()
    up.response = (
        b"HTTP/1.1 200 Fine\r\nX-Second: 2\r\nConnection: X-Hop\r\nX-HOP: gone\r\nx-First: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
    )
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(
            b"GET /p?q=1 HTTP/1.1\r\nHost: x\r\nX-CamelCase: A\r\nConnection: keep-alive, X-Mine\r\nX-Mine: gone\r\nTE: gzip\r\n"
            b"Proxy-Connection: keep-alive\r\nX-repeat: 1\r\nX-Repeat: 2\r\n\r\n"
        )
        head = client.head()
        sent = fields_of(up.heads[0])
        names = [name for name, _ in sent]
        assert up.heads[0].startswith(b"GET /p?q=1 HTTP/1.1\r\n")
        assert names[:4] == ["Host", "X-CamelCase", "X-repeat", "X-Repeat"]
        assert not {"connection", "x-mine", "te", "proxy-connection", "keep-alive"} & {
            name.lower() for name in names
        }
        assert head.startswith(b"HTTP/1.1 200 Fine\r\n")
        got = [name for name, _ in fields_of(head)]
        assert got[:5] == ["X-Second", "x-First", "Set-Cookie", "Set-Cookie", "Content-Length"]
        assert got[5:] == ["date"]


def test_pipelined_requests_are_answered_in_order():
    up = Upstream()

    def echo_path(peer: Peer) -> None:
        while head := up.request(peer):
            path = head.split(b" ")[1]
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))

    up.handler = echo_path
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(50)))
        assert [client.answer()[2] for _ in range(50)] == [b"/%d" % i for i in range(50)]


@pytest.mark.parametrize("portion", [1, 3, 7, 64])
def test_a_request_in_small_portions(portion: int):
    up = Upstream()
    data = b"POST /u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"
    with serving(up) as proxy:
        client = proxy.dial()
        for i in range(0, len(data), portion):
            client.send(data[i : i + portion])
        assert client.answer()[0] == 200
        assert up.bodies == [b"hello world"]


def test_chunked_request_with_trailers_arrives_with_them():
    up = Upstream()
    seen: list[bytes] = []

    def handler(peer: Peer) -> None:
        seen.append(peer.head())
        seen.append(peer.until(b"0\r\n"))
        seen.append(peer.head())
        peer.send(OK)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
        )
        assert client.answer()[0] == 200
        assert seen[1] == b"3\r\nabc\r\n0\r\n"
        assert seen[2] == b"X-Sum: 9\r\n\r\n"
        assert b"\r\nTrailer: X-Sum\r\n" in seen[0]


def test_chunked_answer_with_trailers():
    up = Upstream()
    up.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nwiki\r\n5;a=b\r\npedia\r\n0\r\nX-Sum: 7\r\n\r\n"
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.head()
        assert head.lower().count(b"transfer-encoding") == 1
        assert client.until(b"0\r\n") == b"9\r\nwikipedia\r\n0\r\n"
        assert client.head() == b"X-Sum: 7\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "response", "body"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 77\r\n\r\n', b""),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_answers_without_body_leave_the_connection_usable(method: bytes, response: bytes, body: bytes):
    up = Upstream()
    up.response = response
    with serving(up) as proxy:
        client = proxy.dial()
        for _ in range(2):
            client.send(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = client.head()
            assert head.split(b"\r\n")[0] == response.split(b"\r\n")[0]
            if b"Content-Length" in response:
                assert (
                    re.search(rb"Content-Length: (\d+)", head)[1]
                    == re.search(rb"Content-Length: (\d+)", response)[1]
                )  # type: ignore[index]
        assert up.connections == 1
        assert client.buf == body


def test_interim_answers_are_passed_on_and_an_expected_100_is_the_upstreams():
    up = Upstream()

    def handler(peer: Peer) -> None:
        assert b"\r\nExpect: 100-continue\r\n" in peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert peer.exactly(4) == b"body"
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n" + OK)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 100 Continue\r\n")
        client.send(b"body")
        hints = client.head()
        assert hints.startswith(b"HTTP/1.1 103 Early Hints\r\n") and b"Link: </a.css>; rel=preload" in hints
        assert client.answer()[::2] == (200, b"ok")


def test_http10_client_gets_no_interim_answer_and_no_chunks():
    up = Upstream()
    up.response = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding" not in head.lower() and b"connection: close" in head.lower()
        assert body == b"abc"
        assert up.heads[0].startswith(b"GET / HTTP/1.1\r\n")


def test_http10_keep_alive_is_honoured_when_asked_for():
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
            status, fields, body = client.answer()
            assert (status, body, fields["connection"]) == (200, b"ok", "keep-alive")


def test_an_http10_request_without_host_goes_on_with_the_services_name():
    up = Upstream()
    config = simple_config(up.port)
    config["clusters"][0]["service"] = "reviews.default.svc.cluster.local"
    with serving(up, config=config) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.rest().startswith(b"HTTP/1.1 200 ")
        assert ("host", "reviews.default.svc.cluster.local") in fields_of(up.heads[0])


def test_connection_close_is_said_and_done():
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"connection: close" in client.rest().lower()


def test_absolute_form_becomes_origin_form_and_its_authority_is_the_host():
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET http://real.example:8080/p?q HTTP/1.1\r\nHost: other.example\r\n\r\n")
        assert client.answer()[0] == 200
        client.send(b"GET http://real.example HTTP/1.1\r\nHost: other.example\r\n\r\n")
        assert client.answer()[0] == 200
        assert up.heads[0].startswith(b"GET /p?q HTTP/1.1\r\n")
        assert ("Host", "real.example:8080") in fields_of(up.heads[0])
        assert up.heads[1].startswith(b"GET / HTTP/1.1\r\n")


def test_a_body_that_ends_with_the_connection_is_chunked_for_the_client():
    up = Upstream()

    def handler(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\npart one, ")
        peer.send(b"part two")

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        for _ in range(2):  # and the client's connection lives on
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            status, fields, body = client.answer()
            assert (status, fields["transfer-encoding"], body) == (200, "chunked", b"part one, part two")


def test_upgrade_tunnels_bytes_both_ways():
    up = Upstream()

    def handler(peer: Peer) -> None:
        head = peer.head().lower()
        assert b"\r\nupgrade: websocket\r\n" in head and b"\r\nconnection: upgrade\r\n" in head
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst"
        )
        while data := peer.sock.recv(65536):
            peer.send(data[::-1])

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        head = client.head()
        assert head.startswith(b"HTTP/1.1 101 ") and b"upgrade: websocket" in head.lower()
        assert client.exactly(5) == b"first"
        for message in (b"hello", bytes(range(256)), os.urandom(100_000)):
            client.send(message)
            assert len(client.exactly(len(message))) == len(message)
        client.close()
        proxy.wait_quiet()
        assert proxy.counter("rq_upgrade") == 1


def test_101_that_nobody_asked_for_is_an_error():
    up = Upstream()
    up.response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    with serving(up) as proxy:
        assert proxy.get()[0] == 502


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_arrive_whole_both_ways(chunked: bool):
    up = Upstream()
    data = os.urandom(5_000_000)
    digest = hashlib.sha256(data).hexdigest()

    def handler(peer: Peer) -> None:
        while up.request(peer):
            body = up.bodies.pop()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        if chunked:
            pieces = [data[i : i + 77_777] for i in range(0, len(data), 77_777)]
            message = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
            head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        else:
            message = data
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
        sender = threading.Thread(target=client.send, args=(head + message,))
        sender.start()
        status, _, body = client.answer()
        sender.join()
        assert status == 200
        assert hashlib.sha256(body).hexdigest() == digest


def test_ids_and_forwarding_fields_are_begun():
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get()[0] == 200
        sent = {k.lower(): v for k, v in fields_of(up.heads[0])}
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", sent["x-request-id"]
        )
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", sent["traceparent"])
        assert sent["x-forwarded-for"] == "127.0.0.1"
        assert sent["x-forwarded-proto"] == "http"


def test_ids_and_forwarding_fields_are_passed_on():
    up = Upstream()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    with serving(up) as proxy:
        more = f"traceparent: {trace}\r\ntracestate: a=1\r\nx-request-id: mine\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: gopher\r\n"
        assert proxy.get(more=more)[0] == 200
        sent = {k.lower(): v for k, v in fields_of(up.heads[0])}
        assert (sent["traceparent"], sent["tracestate"], sent["x-request-id"]) == (trace, "a=1", "mine")
        assert sent["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
        assert sent["x-forwarded-proto"] == "http"  # a gateway says what it saw


@pytest.mark.parametrize(
    "b3",
    [
        "X-B3-TraceId: 463ac35c9f6413ad48485a3953bb6124\r\nX-B3-SpanId: a2fb4a1d1a96d312\r\nX-B3-Sampled: 1\r\n",
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n",
    ],
)
def test_b3_is_passed_on_and_no_second_trace_is_begun(b3: str):
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get(more=b3)[0] == 200
        text = up.heads[0].decode()
        assert b3 in text and "traceparent" not in text


def test_an_invalid_traceparent_is_replaced():
    up = Upstream()
    with serving(up) as proxy:
        assert (
            proxy.get(more="traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\n")[0]
            == 200
        )
        values = [v for k, v in fields_of(up.heads[0]) if k == "traceparent"]
        assert len(values) == 1 and "-00000000000000000000000000000000-" not in values[0]


def test_header_operations_and_rewrite():
    up = Upstream()
    up.response = b"HTTP/1.1 200 OK\r\nX-Drop: 1\r\nX-Set: old\r\nContent-Length: 2\r\n\r\nok"
    with serving(
        up,
        path={"op": "prefix", "value": "/old/"},
        rewrite={"path": "/new/", "authority": "inner.local"},
        request_headers={"set": [["X-Set", "v"]], "add": [["X-Add", "w"]], "remove": ["X-Secret"]},
        response_headers={"set": [["X-Set", "new"]], "add": [["X-More", "1"]], "remove": ["X-Drop"]},
    ) as proxy:
        status, fields, _ = proxy.get("/old/x?q=1", more="X-Secret: s\r\nX-Set: before\r\n")
        assert status == 200
        sent = fields_of(up.heads[0])
        assert up.heads[0].startswith(b"GET /new/x?q=1 HTTP/1.1\r\n")
        assert ("Host", "inner.local") in sent
        assert [v for k, v in sent if k.lower() == "x-set"] == ["v"]
        assert [v for k, v in sent if k.lower() == "x-add"] == ["w"]
        assert not [v for k, v in sent if k.lower() == "x-secret"]
        assert (fields["x-set"], fields["x-more"]) == ("new", "1") and "x-drop" not in fields


def test_upstream_fields_that_frame_are_never_operated_on():
    up = Upstream()
    with serving(up, response_headers={"set": [["Content-Length", "99"]], "remove": ["Connection"]}) as proxy:
        status, fields, body = proxy.get()
        assert (status, fields["content-length"], body) == (200, "2", b"ok")


def redirecting(**redirect: object) -> dict[str, object]:
    config = simple_config(1)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    del route["dests"]
    route["redirect"] = {"code": 302, **redirect}
    return config


@pytest.mark.parametrize(
    ("redirect", "target", "location"),
    [
        ({"path": "/new"}, "/old?q=1", "http://site:81/new?q=1"),
        ({"authority": "other"}, "/a", "http://other/a"),
        ({"scheme": "https"}, "/a", "https://site/a"),
        ({"scheme": "https", "port": 8443}, "/a", "https://site:8443/a"),
        ({"port": 80}, "/a", "http://site/a"),
    ],
)
def test_redirects_point_where_the_route_says(redirect: dict[str, object], target: str, location: str):
    with serving(config=redirecting(**redirect)) as proxy:
        status, fields, _ = proxy.get(target, host="site:81")
        assert (status, fields["location"]) == (302, location)


def test_options_of_the_server_are_redirected_to_its_root():
    with serving(config=redirecting(scheme="https")) as proxy:
        client = proxy.dial()
        client.send(b"OPTIONS * HTTP/1.1\r\nHost: site\r\n\r\n")
        assert client.answer()[1]["location"] == "https://site/"


def test_a_direct_response_is_made_here():
    config = simple_config(1)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    del route["dests"]
    route["direct"] = {"status": 418, "body": b"teapot"}
    with serving(config=config) as proxy:
        status, fields, body = proxy.get()
        assert (status, body, fields["server"]) == (418, b"teapot", "fastmesh")
        assert proxy.counter("rq_direct") == 1
