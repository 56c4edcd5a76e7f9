"""gRPC when something goes wrong: what a proxy answers itself, what it repeats, servers that die and are
restarted, proxies that drain. A bare HTTP/2 client asks where grpcio would hide who said a status."""

from __future__ import annotations

import json
import queue
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from helpers import Process, free_port, wait_for, ways
from helpers.grpc_app import SERVICE, Calls, Failure, GrpcApp, Ledger
from helpers.h2client import Answer, H2Client
from helpers.ways import Upstream, Way

WAIT = 20  # seconds that no call here needs
FEW_STREAMS = 40
FIRST_GOAWAY = 2**31 - 1
Code = grpc.StatusCode


class Phoenix:
    """A server in a process of its own, which tests kill and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: Process | None = None

    def start(self) -> Process:
        command = ["python", "-m", "helpers.grpc_app", str(self.port), "phoenix"]
        self.process = Process(command, self.directory, name="phoenix")
        self.process.wait_output("^ready$", WAIT)
        return self.process

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            print(self.process.report())


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    phoenix = Phoenix(tmp_path_factory.mktemp("phoenix"))
    yield phoenix
    phoenix.close()


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ledger: Ledger, phoenix: Phoenix
) -> Iterator[Way]:
    calls, narrow = GrpcApp("calls", ledger), GrpcApp("narrow", ledger, max_streams=FEW_STREAMS)
    upstreams = [
        Upstream("calls", [calls.port], "GRPC"),
        Upstream("narrow", [narrow.port], "GRPC"),
        Upstream("phoenix", [phoenix.port], "GRPC"),
        Upstream("dead", [free_port()], "GRPC"),
    ]
    try:
        with ways.opened(request.param, tmp_path_factory.mktemp("grpc"), upstreams) as way:
            yield way
    finally:
        calls.close()
        narrow.close()


@pytest.fixture
def calls(way: Way) -> Iterator[Calls]:
    with Calls(way.port("calls"), "calls") as calls:
        yield calls


@pytest.fixture
def raw(way: Way) -> Iterator[H2Client]:
    with H2Client(way.plain) as raw:
        yield raw


def tag(way: Way, name: str) -> str:
    return f"{name}-{way.kind}-{random.randrange(1 << 30)}"


def refused(answer: Answer) -> int | None:
    """The status of a trailers-only answer."""
    assert answer.reset is None
    assert (answer.status, answer.body, answer.trailers) == (200, b"", {}), answer
    assert answer.headers["content-type"] == "application/grpc"
    return answer.grpc_status


def failing(calls: Calls, method: str = "Echo", request: bytes = b"") -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        calls.unary(method)(request, timeout=WAIT)
    return caught.value


# --- what the proxy answers


@ways.PROXIED
def test_no_route_is_unimplemented(way: Way, raw: H2Client) -> None:
    with Calls(way.plain, "nobody") as calls:
        assert failing(calls).code() == Code.UNIMPLEMENTED
    answer = raw.grpc("nobody", f"/{SERVICE}/Echo", b"").wait()
    assert refused(answer) == Code.UNIMPLEMENTED.value[0]


@ways.PROXIED
def test_a_server_that_is_not_there_is_unavailable(way: Way, raw: H2Client) -> None:
    with Calls(way.plain, "dead") as calls:
        error = failing(calls)
        assert error.code() == Code.UNAVAILABLE and error.details()
    answer = raw.grpc("dead", f"/{SERVICE}/Echo", b"").wait()
    assert refused(answer) == Code.UNAVAILABLE.value[0]
    assert answer.headers["grpc-message"]


@ways.PROXIED
def test_what_is_not_grpc_gets_statuses_of_http(raw: H2Client) -> None:
    for service, status in (("nobody", 404), ("dead", 503)):
        answer = raw.get(service)
        assert answer.status == status and answer.grpc_status is None


@ways.PROXIED
def test_the_hop_keeps_the_deadline(way: Way, raw: H2Client, ledger: Ledger) -> None:
    """In each unit; the server hangs, and the client has no clock."""
    timeouts = ("300m", "300000u", "300000000n", "99999999n", "1S", "0S")
    names = {timeout: tag(way, f"hop-{timeout}") for timeout in timeouts}
    streams = {
        timeout: raw.grpc("calls", f"/{SERVICE}/Hold", name.encode(), [("grpc-timeout", timeout)])
        for timeout, name in names.items()
    }
    for timeout, stream in streams.items():
        assert refused(stream.wait()) == Code.DEADLINE_EXCEEDED.value[0], timeout
    for timeout, name in names.items():
        # One that is over soon need not arrive at all.
        wait_for(
            lambda n=name: ledger.given_up[n] == ledger.begun[n], WAIT, f"the end of {timeout} in the server"
        )
    assert all(ledger.begun[names[timeout]] <= 1 for timeout in timeouts) and ledger.begun[names["1S"]] == 1
    line = way.near.logged(lambda e: e["path"].endswith("/Hold") and e["grpc_status"] == "DeadlineExceeded")
    assert line["response_code"] == 200


@ways.PROXIED
def test_a_deadline_in_the_middle_of_an_answer(way: Way, raw: H2Client, ledger: Ledger) -> None:
    """The head is gone: the stream must end, and not as if all had been well."""
    name = tag(way, "middle")
    stream = raw.grpc("calls", f"/{SERVICE}/Drip", name.encode(), [("grpc-timeout", "500m")])
    stream.wait(lambda answer: b"first" in answer.body)
    answer = stream.wait()
    assert answer.reset is not None or answer.grpc_status == Code.DEADLINE_EXCEEDED.value[0]
    wait_for(lambda: ledger.given_up[name] == 1, WAIT, "the end of the call in the server")


@ways.PROXIED
def test_a_connection_that_is_cut_ends_its_calls_in_the_server(way: Way, ledger: Ledger) -> None:
    name = tag(way, "cut")
    with H2Client(way.plain) as raw:
        for _ in range(10):
            raw.grpc("calls", f"/{SERVICE}/Hold", name.encode())
        wait_for(lambda: ledger.begun[name] == 10, WAIT, "the calls in the server")
    wait_for(lambda: ledger.given_up[name] == 10, WAIT, "the end of the calls in the server")


# --- what it repeats


@ways.PROXIED
def test_unavailable_is_repeated(calls: Calls, way: Way, ledger: Ledger) -> None:
    failure = Failure(times=2, tag=tag(way, "twice"))
    assert list(calls.server_stream("Fail")(failure.request, timeout=WAIT)) == [b"ok"]
    assert ledger.begun[failure.tag] == 3


@ways.PROXIED
def test_the_last_failure_arrives_whole(calls: Calls, way: Way, ledger: Ledger) -> None:
    failure = Failure(times=99, details="still not", tag=tag(way, "always"), trailers={"x-why": "because"})
    with pytest.raises(grpc.RpcError) as caught:
        list(calls.server_stream("Fail")(failure.request, timeout=WAIT))
    assert (caught.value.code(), caught.value.details()) == (Code.UNAVAILABLE, "still not")
    assert dict(caught.value.trailing_metadata())["x-why"] == "because"
    assert ledger.begun[failure.tag] == 3


@ways.PROXIED
@pytest.mark.parametrize("code", [Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.UNKNOWN], ids=lambda c: c.name)
def test_other_statuses_are_not(calls: Calls, way: Way, ledger: Ledger, code: grpc.StatusCode) -> None:
    failure = Failure(code.value[0], tag=tag(way, "once"))
    with pytest.raises(grpc.RpcError) as caught:
        list(calls.server_stream("Fail")(failure.request, timeout=WAIT))
    assert caught.value.code() == code
    assert ledger.begun[failure.tag] == 1


@ways.PROXIED
def test_what_has_begun_to_be_answered_is_not_repeated(calls: Calls, way: Way, ledger: Ledger) -> None:
    failure = Failure(after=1, tag=tag(way, "begun"))
    messages: list[bytes] = []
    with pytest.raises(grpc.RpcError) as caught:
        for message in calls.server_stream("Fail")(failure.request, timeout=WAIT):
            messages.append(message)
    assert messages == [b"0"] and caught.value.code() == Code.UNAVAILABLE
    assert ledger.begun[failure.tag] == 1


@ways.PROXIED
def test_a_repeated_call_has_the_rest_of_its_deadline(calls: Calls, way: Way, ledger: Ledger) -> None:
    """The server takes 0.4 s for each failure: the next attempt must not have that again."""
    failure = Failure(times=2, pause=0.4, tag=tag(way, "rest"))
    assert list(calls.server_stream("Fail")(failure.request, timeout=9)) == [b"ok"]
    first, second, third = (seconds or 0 for seconds in ledger.remaining[failure.tag])
    # Half of the pause leaves room for what grpc-timeout's units round.
    assert first - second > 0.2 and second - third > 0.2


@ways.PROXIED
def test_the_deadline_is_for_all_attempts(calls: Calls, way: Way, raw: H2Client, ledger: Ledger) -> None:
    failure = Failure(times=99, pause=0.3, tag=tag(way, "all"))
    stream = raw.grpc("calls", f"/{SERVICE}/Fail", failure.request, [("grpc-timeout", "450m")])
    assert refused(stream.wait()) == Code.DEADLINE_EXCEEDED.value[0]
    assert ledger.begun[failure.tag] == 2


# --- servers with limits, servers that end


@ways.PROXIED
def test_more_calls_than_a_connection_to_the_server_takes(way: Way, ledger: Ledger) -> None:
    name = tag(way, "narrow")
    with Calls(way.plain, "narrow") as calls:
        futures = [calls.unary("Hold").future(name.encode(), timeout=WAIT) for _ in range(5 * FEW_STREAMS)]
        wait_for(lambda: ledger.begun[name] == len(futures), WAIT, "all calls in the server")
        ledger.release(name)
        assert {future.result() for future in futures} == {b"narrow"}
    assert ledger.begun[name] == len(futures), "none was sent twice"


@ways.PROXIED
def test_a_server_is_killed_and_started_again(way: Way, phoenix: Phoenix) -> None:
    process = phoenix.start()
    with Calls(way.plain, "phoenix") as calls:
        wait_for(lambda: answers(calls), WAIT, "the server behind the proxy")
        unary = [calls.unary("Hold").future(b"unary", timeout=WAIT) for _ in range(10)]
        streams = [calls.server_stream("Drip")(b"stream", timeout=WAIT) for _ in range(5)]
        assert [next(stream) for stream in streams] == [b"first"] * 5
        wait_for(lambda: process.stdout.count("holds unary") == 10, WAIT, "ten calls in the server")
        process.kill()
        assert {future.exception().code() for future in unary} == {Code.UNAVAILABLE}
        ends = set()
        for stream in streams:
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            ends.add(caught.value.code())
        # Their head is gone: the proxy can end them by trailers or by a reset.
        assert ends <= {Code.UNAVAILABLE, Code.INTERNAL, Code.CANCELLED}
        assert failing(calls).code() == Code.UNAVAILABLE
        phoenix.start()
        wait_for(lambda: answers(calls), WAIT, "the server behind the proxy")
        assert [calls.unary("Echo")(b"%d" % n, timeout=WAIT) for n in range(50)] == [
            b"%d" % n for n in range(50)
        ]
    assert phoenix.process is not None
    phoenix.process.kill()


def answers(calls: Calls) -> bool:
    try:
        return bool(calls.unary("Echo")(b"x", timeout=WAIT) == b"x")
    except grpc.RpcError as error:
        assert error.code() == Code.UNAVAILABLE
        return False


@ways.PROXIED
def test_a_server_that_ends_in_order_fails_nothing(way: Way, phoenix: Phoenix) -> None:
    """GOAWAY, then it finishes what it has; what it has not taken goes to its successor."""
    process = phoenix.start()
    stop, failed, done = threading.Event(), list[str](), list[int]()

    def load(calls: Calls) -> None:
        while not stop.is_set():
            try:
                calls.unary("Echo")(b"load", timeout=WAIT)
                done.append(1)
            except grpc.RpcError as error:
                failed.append(f"{error.code()} {error.details()}")

    with Calls(way.plain, "phoenix") as calls:
        wait_for(lambda: answers(calls), WAIT, "the server behind the proxy")
        held = [calls.unary("Hold").future(b"held", timeout=WAIT) for _ in range(5)]
        chat: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        talk = calls.both("Chat")(iter(chat.get, None), timeout=WAIT)
        chat.put(b"before")
        assert next(talk) == b"before"
        wait_for(lambda: process.stdout.count("holds held") == 5, WAIT, "the calls in the server")
        # As many as the retry budget always allows: a server that ends answers CANCELLED to calls not begun.
        threads = [threading.Thread(target=load, args=(calls,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(done) > 50, WAIT, "50 calls")
        process.signal(signal.SIGTERM)
        process.wait_output("^ends$", WAIT)
        chat.put(b"meanwhile")
        assert next(talk) == b"meanwhile", "the server finishes what it has"
        stop.set()
        for thread in threads:
            thread.join()
        for future in held:
            future.cancel()
        chat.put(None)
        assert list(talk) == []
        assert process.wait(WAIT) == 0
    # Nobody listens any more after the GOAWAY: UNAVAILABLE may be said of calls not taken, nothing else.
    assert {failure.split()[0] for failure in failed} <= {str(Code.UNAVAILABLE)}, failed[:5]


# --- the proxy drains


@ways.PROXIED
def test_a_draining_proxy_says_goaway_and_finishes_its_calls(way: Way, ledger: Ledger) -> None:
    name = tag(way, "drain")
    with way.another() as (port, proxy), Calls(port, "calls") as calls, H2Client(port) as raw:
        sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        chat = calls.both("Chat")(iter(sent.get, None), timeout=WAIT)
        sent.put(b"before")
        assert next(chat) == b"before"
        held = raw.grpc("calls", f"/{SERVICE}/Hold", name.encode())
        wait_for(lambda: ledger.begun[name] == 1, WAIT, "the call in the server")
        proxy.process.signal(signal.SIGTERM)
        raw.read(lambda: raw.goaways)
        assert raw.goaways[0] == (FIRST_GOAWAY, 0), "first a warning that takes back nothing"
        for number in range(3):
            sent.put(b"%d" % number)
            assert next(chat) == b"%d" % number
        ledger.release(name)
        answer = held.wait()
        assert (answer.reset, answer.grpc_status) == (None, 0)
        sent.put(None)
        assert list(chat) == [] and chat.code() == Code.OK
        raw.read(lambda: raw.goaways[-1][0] < FIRST_GOAWAY)
        assert raw.goaways[-1] == (held.number, 0)
        assert proxy.process.wait(WAIT) == 0


@ways.SIDECARS
def test_a_draining_far_sidecar_finishes_its_calls(way: Way, ledger: Ledger) -> None:
    assert way.mesh is not None
    name = tag(way, "far")
    leaving = way.far["calls"][0]
    with Calls(way.plain, "calls") as calls:
        sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        chat = calls.both("Chat")(iter(sent.get, None), timeout=WAIT)
        sent.put(b"before")
        assert next(chat) == b"before"
        held = calls.unary("Hold").future(name.encode(), timeout=WAIT)
        wait_for(lambda: ledger.begun[name] == 1, WAIT, "the call in the server")
        leaving.process.signal(signal.SIGTERM)
        way.mesh.reaches(way.near, "calls")  # type: ignore[arg-type]
        for number in range(3):
            sent.put(b"%d" % number)
            assert next(chat) == b"%d" % number
        ledger.release(name)
        assert held.result() == b"calls"
        assert failing(calls).code() == Code.UNAVAILABLE, "nobody is left for new ones"
        sent.put(None)
        assert list(chat) == [] and chat.code() == Code.OK
        assert leaving.process.wait(WAIT) == 0
        leaving.start()
        way.mesh.reaches(way.near, "calls", leaving)  # type: ignore[arg-type]
        assert json.loads(calls.unary("Facts")(b"", timeout=WAIT))["app"] == "calls"
