"""gRPC by grpcio on both ends: every kind of call, metadata, statuses, deadlines, cancellation, sizes; the
same directly, through an edge and through two sidecars. What goes wrong in a proxy: test_grpc_faults.py."""

from __future__ import annotations

import json
import queue
import random
import threading
from collections.abc import Iterator

import grpc
import pytest

from helpers import wait_for, ways
from helpers.grpc_app import STATUS_DETAILS, Calls, Failure, GrpcApp, Ledger
from helpers.ways import Upstream, Way

WAIT = 20  # seconds that no call here needs
FOUR_MEBIBYTES = 4 << 20  # what grpcio takes by default
ANY_BYTES = bytes(range(256))
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Of both servers: calls go to either."""
    return Ledger()


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ledger: Ledger
) -> Iterator[Way]:
    apps = [GrpcApp(name, ledger) for name in ("one", "two")]
    upstreams = [Upstream("calls", [app.port for app in apps], "GRPC")]
    try:
        with ways.opened(request.param, tmp_path_factory.mktemp("grpc"), upstreams) as way:
            yield way
    finally:
        for app in apps:
            app.close()


@pytest.fixture
def calls(way: Way) -> Iterator[Calls]:
    with Calls(way.port("calls"), "calls") as calls:
        yield calls


def tag(way: Way, name: str) -> str:
    return f"{name}-{way.kind}"


# --- the four kinds


@ways.ALL
@pytest.mark.parametrize("size", [0, 1, 5, 16384, 100_000])
def test_unary(calls: Calls, size: int) -> None:
    message = random.Random(size).randbytes(size)
    answer, call = calls.unary("Echo").with_call(message, timeout=WAIT)
    assert answer == message
    assert call.code() == Code.OK
    assert dict(call.initial_metadata())["x-app"] in ("one", "two")


@ways.ALL
@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 10), (500, 1000), (3, 300_000)])
def test_server_streaming(calls: Calls, count: int, size: int) -> None:
    messages = list(calls.server_stream("Count")(f"{count} {size}".encode(), timeout=WAIT))
    assert [len(message) for message in messages] == [size] * count
    assert [int(message[:8]) for message in messages] == list(range(count))


@ways.ALL
def test_a_streamed_message_arrives_while_the_next_is_not_there_yet(
    calls: Calls, way: Way, ledger: Ledger
) -> None:
    name = tag(way, "drip")
    messages = calls.server_stream("Drip")(name.encode(), timeout=WAIT)
    assert next(messages) == b"first"
    ledger.release(name)
    assert list(messages) == [b"second"]


@ways.ALL
@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 10), (500, 1000), (3, 300_000)])
def test_client_streaming(calls: Calls, count: int, size: int) -> None:
    answer = calls.client_stream("Sum")((bytes(size) for _ in range(count)), timeout=WAIT)
    assert json.loads(answer) == {"messages": count, "bytes": count * size}


@ways.ALL
def test_an_answer_before_the_client_has_ended(calls: Calls) -> None:
    """The server ends the call, the client's side is still open: nobody may wait for it."""
    answered = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"early"
        answered.wait(WAIT)

    assert calls.client_stream("Early")(messages(), timeout=WAIT) == b"early"
    answered.set()
    assert calls.unary("Echo")(b"after", timeout=WAIT) == b"after"


@ways.ALL
def test_both_ways(calls: Calls) -> None:
    """Ping-pong: each message waits for the answer to the one before."""
    sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = calls.both("Chat")(iter(sent.get, None), timeout=WAIT)
    for number in range(50):
        message = b"%d" % number * (number + 1)
        sent.put(message)
        assert next(answers) == message
    sent.put(None)
    assert list(answers) == []
    assert answers.code() == Code.OK


@ways.ALL
def test_both_ways_at_once(calls: Calls) -> None:
    """Neither side waits for the other: more than any window, in both directions."""
    messages = [random.Random(number).randbytes(50_000) for number in range(40)]
    assert list(calls.both("Chat")(iter(messages), timeout=WAIT)) == messages


# --- sizes and numbers


@ways.ALL
def test_four_mebibytes_each_way(calls: Calls) -> None:
    message = random.Random(4).randbytes(FOUR_MEBIBYTES)
    assert calls.unary("Echo")(message, timeout=WAIT) == message


@ways.ALL
def test_four_mebibytes_in_streams(calls: Calls) -> None:
    received = [len(m) for m in calls.server_stream("Count")(f"2 {FOUR_MEBIBYTES}".encode(), timeout=WAIT)]
    assert received == [FOUR_MEBIBYTES] * 2
    answer = calls.client_stream("Sum")((bytes(FOUR_MEBIBYTES) for _ in range(2)), timeout=WAIT)
    assert json.loads(answer) == {"messages": 2, "bytes": 2 * FOUR_MEBIBYTES}


@ways.ALL
def test_200_streams_at_once_on_one_channel(calls: Calls, way: Way, ledger: Ledger) -> None:
    """All are in the servers before the first is answered."""
    name = tag(way, "many")
    futures = [calls.unary("Hold").future(name.encode(), timeout=WAIT) for _ in range(200)]
    wait_for(lambda: ledger.begun[name] == 200, WAIT, "200 calls in the servers")
    assert calls.unary("Echo")(b"between", timeout=WAIT) == b"between"
    ledger.release(name)
    assert {future.result() for future in futures} <= {b"one", b"two"}
    assert ledger.given_up[name] == 0


@ways.ALL
def test_200_conversations_at_once_on_one_channel(calls: Calls) -> None:
    answers: dict[int, list[bytes]] = {}

    def talk(number: int) -> None:
        messages = [b"%d-%d" % (number, n) for n in range(5)]
        answers[number] = list(calls.both("Chat")(iter(messages), timeout=WAIT))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [b"%d-%d" % (n, m) for m in range(5)] for n in range(200)}


# --- metadata and statuses


@ways.ALL
def test_metadata_both_ways(calls: Calls) -> None:
    """Binary ones with every byte, one of them empty, and a key twice."""
    sent = (
        ("echo-text", "some text; with, marks=\"x\""),
        ("echo-some-bin", ANY_BYTES),
        ("echo-empty-bin", b""),
        ("echo-twice-bin", b"\x00first"),
        ("echo-twice-bin", b"\xffsecond"),
        ("trail-text", "at the end"),
        ("trail-some-bin", ANY_BYTES[::-1]),
        ("trail-twice-bin", b"\x01"),
        ("trail-twice-bin", b"\x02" * 100),
    )  # fmt: skip
    _, call = calls.unary("Echo").with_call(b"", metadata=sent, timeout=WAIT)
    head = [(key, value) for key, value in call.initial_metadata() if key.startswith("echo-")]
    trailers = [(key, value) for key, value in call.trailing_metadata() if key.startswith("trail-")]
    assert sorted(head) == sorted(pair for pair in sent if pair[0].startswith("echo-"))
    assert sorted(trailers) == sorted(pair for pair in sent if pair[0].startswith("trail-"))


@ways.ALL
def test_much_metadata(calls: Calls) -> None:
    sent = [(f"echo-{n}", random.Random(n).randbytes(40).hex()) for n in range(60)]
    _, call = calls.unary("Echo").with_call(b"", metadata=sent, timeout=WAIT)
    assert [(k, v) for k, v in call.initial_metadata() if k.startswith("echo-")] == sent


STATUSES = [code for code in Code if code not in (Code.OK, Code.UNAVAILABLE, Code.CANCELLED)]  # not repeated


@ways.ALL
@pytest.mark.parametrize("after", [0, 3], ids=["trailers-only", "trailers"])
@pytest.mark.parametrize("code", STATUSES, ids=lambda code: code.name)
def test_an_error_with_its_details(calls: Calls, code: grpc.StatusCode, after: int) -> None:
    """Alone in the answer's head, or behind messages; grpc-message is percent-encoded on the wire."""
    details = "100% of it: Überlänge, ☃, \u0080, a+b\tc"
    failure = Failure(
        code.value[0], details, after=after, tag=f"{code.name}-{after}-{random.random()}",
        trailers={STATUS_DETAILS: (b"\x08\x05" + ANY_BYTES).hex(), "x-why": "because"},
    )  # fmt: skip
    messages: list[bytes] = []
    with pytest.raises(grpc.RpcError) as caught:
        for message in calls.server_stream("Fail")(failure.request, timeout=WAIT):
            messages.append(message)
    error = caught.value
    assert messages == [b"%d" % number for number in range(after)]
    assert (error.code(), error.details()) == (code, details)
    trailers = dict(error.trailing_metadata())
    assert trailers[STATUS_DETAILS] == b"\x08\x05" + ANY_BYTES
    assert trailers["x-why"] == "because"


@ways.ALL
def test_an_unknown_method(calls: Calls) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        calls.unary("Nothing")(b"", timeout=WAIT)
    assert caught.value.code() == Code.UNIMPLEMENTED
    assert caught.value.details() == "Method not found!", "the server's own word"


# --- deadlines and cancellation


@ways.ALL
def test_the_server_sees_the_deadline(calls: Calls) -> None:
    for seconds in (5, 60, 7200):
        facts = json.loads(calls.unary("Facts")(b"", timeout=seconds))
        assert seconds / 2 < facts["remaining"] <= seconds * 1.02, "grpcio rounds up what it sends"
    # some versions of grpcio say None, others for ever
    assert (json.loads(calls.unary("Facts")(b""))["remaining"] or 1e18) > 1e9


@ways.ALL
@pytest.mark.parametrize("method", ["Hold", "Drip"])
def test_a_deadline_ends_the_call_on_both_sides(calls: Calls, way: Way, ledger: Ledger, method: str) -> None:
    name = tag(way, f"deadline-{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(calls.server_stream(method)(name.encode(), timeout=0.3))
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    wait_for(
        lambda: ledger.given_up[name] == ledger.begun[name] == 1, WAIT, "the end of the call in the server"
    )


@ways.ALL
@pytest.mark.parametrize("method", ["Hold", "Drip"])
def test_cancellation_reaches_the_server(calls: Calls, way: Way, ledger: Ledger, method: str) -> None:
    """Before the answer's head, and between its messages."""
    name = tag(way, f"cancel-{method}")
    call = calls.server_stream(method)(name.encode(), timeout=WAIT)
    if method == "Drip":
        assert next(call) == b"first"
    wait_for(lambda: ledger.begun[name] == 1, WAIT, "the call in the server")
    assert ledger.given_up[name] == 0
    call.cancel()
    wait_for(lambda: ledger.given_up[name] == 1, WAIT, "the end of the call in the server")
    assert calls.unary("Echo")(b"after", timeout=WAIT) == b"after"


@ways.ALL
def test_a_channel_that_is_closed_ends_its_calls_in_the_server(
    way: Way, calls: Calls, ledger: Ledger
) -> None:
    name = tag(way, "closed")
    with Calls(way.port("calls"), "calls") as other:
        futures = [other.unary("Hold").future(name.encode(), timeout=WAIT) for _ in range(20)]
        wait_for(lambda: ledger.begun[name] == 20, WAIT, "the calls in the servers")
    wait_for(lambda: ledger.given_up[name] == 20, WAIT, "the end of the calls in the servers")
    assert {future.code() for future in futures} == {Code.CANCELLED}
    assert calls.unary("Echo")(b"after", timeout=WAIT) == b"after"


# --- what is the proxy's


@ways.EDGE
def test_over_tls(way: Way) -> None:
    with Calls(way.secure, "calls", way.ca) as calls:
        assert calls.unary("Echo")(b"secret", timeout=WAIT) == b"secret"
        assert len(list(calls.server_stream("Count")(b"50 1000", timeout=WAIT))) == 50


@ways.PROXIED
def test_each_call_is_balanced(calls: Calls) -> None:
    """One client's connection, both servers."""
    answered = [calls.facts()["app"] for _ in range(40)]
    assert set(answered) == {"one", "two"}


@ways.SIDECARS
def test_the_link_is_mutual_tls_and_the_logs_say_grpc(calls: Calls, way: Way) -> None:
    assert calls.unary("Echo")(b"", metadata=(("x-request-id", "the-linked-one"),), timeout=WAIT) == b""
    line = way.far_logged("calls", lambda e: e["request_id"] == "the-linked-one")
    assert line["peer_uri_san"].endswith("/sa/web")
    assert (line["protocol"], line["grpc_status"], line["path"]) == ("HTTP/2", "OK", "/mesh.Test/Echo")
