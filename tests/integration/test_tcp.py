"""TCP sessions through one worker: bytes both ways, ends, failures, limits, and what is told of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers.tcp import Sending, data_of, echo, named, read_all, tcp_config, was_reset
from helpers.worker import Peer, Upstream, WorkerProxy, serving

UH, UF, UO, NR, NC, DC, UC, SI, DT = 1, 2, 4, 8, 16, 64, 256, 16384, 32768


def tcp(*upstreams: Upstream, options: dict[str, int] | None = None, **cluster: Any) -> Any:
    return serving(
        *upstreams, config=tcp_config(*(u.port for u in upstreams), **cluster), options=options, log=True
    )


def record(proxy: WorkerProxy) -> dict[str, Any]:
    """The one record that is next."""
    (found,) = wait_for(lambda: proxy.segment.log_records(1), what="an access-log record")
    made: dict[str, Any] = found
    return made


def dial_is_reset(proxy: WorkerProxy) -> bool:
    """Whether the proxy resets a session; that may come before the client knows that it is connected."""
    try:
        return was_reset(proxy.dial().sock)
    except ConnectionResetError:
        return True


def series(proxy: WorkerProxy) -> list[dict[str, Any]]:
    return [s for s in proxy.segment.series() if s["protocol"] == 2]


def test_bytes_come_back_and_are_told() -> None:
    upstream = Upstream(echo)
    with tcp(upstream) as proxy:
        client = proxy.dial()
        for i in range(5):
            client.send(b"hello %d" % i)
            assert client.exactly(7) == b"hello %d" % i
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        r = record(proxy)
        assert (r["minor"], r["flags"], r["status"], r["rx_bytes"], r["tx_bytes"]) == (255, 0, 0, 35, 35)
        assert (r["upstream_cluster"], r["route_name"]) == ("c", "r")
        assert r["upstream_host"] == f"127.0.0.1:{upstream.port}" and r["duration_us"] > 0
        (s,) = series(proxy)
        assert (s["opened"], s["count"], s["rx_bytes"][0], s["tx_bytes"][0]) == (1, 1, 35, 35)
        assert [proxy.counter(n) for n in ("tcp_total", "tcp_open", "tcp_done")] == [1, 1, 1]


@pytest.mark.parametrize("size", [1, 16384, 100_000, 32 << 20])
def test_large_transfers_in_both_directions_at_once(size: int) -> None:
    there, back = data_of(size, 1), data_of(size, 2)
    got: list[bytes] = []

    def both(peer: Peer) -> None:
        peer.sock.settimeout(60)
        sending = Sending(peer.sock, back)
        got.append(read_all(peer.sock))
        sending.join(60)

    with tcp(Upstream(both)) as proxy:
        client = proxy.dial()
        client.sock.settimeout(60)
        sending = Sending(client.sock, there)
        assert read_all(client.sock) == back
        sending.join(60)
        r = record(proxy)
        wait_for(lambda: got == [there])
        assert (r["rx_bytes"], r["tx_bytes"], r["flags"]) == (size, size, 0)
        # bulk is not copied, a few bytes are
        assert (proxy.counter("tcp_spliced") > size) == (size > 1 << 20)


def test_the_upstream_may_speak_first() -> None:
    with tcp(named(b"220 greetings\r\n")) as proxy:
        assert proxy.dial().rest() == b"220 greetings\r\n"


def test_a_client_that_has_said_all_gets_the_rest() -> None:
    def later(peer: Peer) -> None:
        said = peer.rest()
        peer.send(b"you said %d bytes" % len(said))

    with tcp(Upstream(later)) as proxy:
        client = proxy.dial()
        client.send(b"x" * 1000)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b"you said 1000 bytes"
        assert record(proxy)["flags"] == 0


def test_an_upstream_that_has_said_all_gets_the_rest() -> None:
    got: list[bytes] = []

    def early(peer: Peer) -> None:
        peer.send(b"bye")
        peer.sock.shutdown(socket.SHUT_WR)
        got.append(peer.rest())

    with tcp(Upstream(early)) as proxy:
        client = proxy.dial()
        assert client.rest() == b"bye"
        client.send(b"still here")
        client.send(b", really")
        client.close()
        assert record(proxy)["flags"] == 0
        wait_for(lambda: got == [b"still here, really"])


def test_a_reset_of_the_client_reaches_the_upstream() -> None:
    seen: list[bool] = []
    ready = threading.Event()

    def wait(peer: Peer) -> None:
        peer.exactly(2)
        ready.set()
        seen.append(was_reset(peer.sock))

    with tcp(Upstream(wait)) as proxy:
        client = proxy.dial()
        client.send(b"hi")
        assert ready.wait(10)
        client.reset()
        r = record(proxy)
        assert r["flags"] == DC and r["details"] == "downstream_remote_reset" and r["rx_bytes"] == 2
        wait_for(lambda: seen == [True])
        assert proxy.counter("tcp_down_reset") == 1


def test_a_reset_of_the_upstream_reaches_the_client() -> None:
    def wait(peer: Peer) -> None:
        peer.exactly(2)
        peer.reset()

    with tcp(Upstream(wait)) as proxy:
        client = proxy.dial()
        client.send(b"hi")
        assert was_reset(client.sock)
        r = record(proxy)
        assert r["flags"] == UC and r["details"] == "upstream_remote_reset"
        assert proxy.counter("tcp_up_reset") == 1


def test_a_client_that_goes_while_nobody_reads_is_noticed() -> None:
    """Its bytes have filled every buffer: nothing is read, yet its end must not go unseen."""
    hold = threading.Event()
    with tcp(Upstream(lambda peer: hold.wait(30) and None)) as proxy:  # type: ignore[arg-type,func-returns-value]
        client = proxy.dial()
        client.sock.setblocking(False)

        def full() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.sock.send(bytes(65536))
            return proxy.counter("pauses") > 0

        wait_for(full)
        client.reset()
        assert record(proxy)["flags"] == DC
        hold.set()


def test_a_slow_reader_holds_up_its_writer_and_takes_no_memory() -> None:
    gate = threading.Event()
    got: list[bytes] = []

    def slow(peer: Peer) -> None:
        gate.wait(30)
        peer.sock.settimeout(60)
        got.append(read_all(peer.sock))

    data = data_of(64 << 20)
    with tcp(Upstream(slow)) as proxy:
        client = proxy.dial()
        client.sock.settimeout(60)
        Sending(client.sock, data)
        wait_for(lambda: proxy.counter("pauses") > 0)
        # what a worker holds for a session is bounded by one read
        assert proxy.segment.worker(0)["mem_bytes"] < 1 << 20
        gate.set()
        assert client.rest() == b""
        wait_for(lambda: got == [data], timeout=60)
        assert record(proxy)["rx_bytes"] == len(data)


def test_no_route_no_endpoint_no_cluster() -> None:
    config = tcp_config()
    with serving(config=config, log=True) as proxy:
        assert dial_is_reset(proxy)
        assert record(proxy)["flags"] == UH and proxy.counter("tcp_no_healthy") == 1
        route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
        route["conds"] = [{"on": "destination", "op": "exact", "networks": ["10.0.0.0/8", "::/0"]}]
        proxy.publish(config)
        assert dial_is_reset(proxy)
        assert record(proxy)["flags"] == NR
        route["conds"] = [{"on": "destination", "op": "exact", "networks": ["10.0.0.0/8", "127.0.0.0/9"]}]
        route["dests"] = [{"cluster": "nobody", "weight": 1}]
        proxy.publish(config)
        assert dial_is_reset(proxy)
        r = record(proxy)
        assert r["flags"] == NC and r["route_name"] == "r"
        assert proxy.counter("tcp_no_route") == 2


def test_an_endpoint_that_refuses_is_passed_by() -> None:
    good = Upstream(echo)
    config = tcp_config(free_port(), good.port, lb="ROUND_ROBIN")
    with serving(good, config=config, log=True) as proxy:
        for _ in range(10):
            client = proxy.dial()
            client.send(b"x")
            assert client.exactly(1) == b"x"
            client.close()
        attempts = [record(proxy)["attempts"] for _ in range(10)]
        assert set(attempts) <= {1, 2} and 2 in attempts
        assert proxy.counter("tcp_connect_again") == proxy.counter("up_cx_fail") == attempts.count(2)


def test_when_none_can_be_reached_the_client_is_told() -> None:
    with serving(config=tcp_config(free_port(), free_port()), log=True) as proxy:
        assert dial_is_reset(proxy)
        r = record(proxy)
        assert r["flags"] == UF and r["attempts"] == 3 and r["details"] == "remote_connection_failure"
        proxy.publish(tcp_config(free_port()))
        assert dial_is_reset(proxy)
        assert record(proxy)["attempts"] == 1  # there is no other one
        assert proxy.counter("tcp_connect_fail") == 2


def test_a_dead_endpoint_is_ejected() -> None:
    good = Upstream(echo)
    config = tcp_config(
        free_port(), good.port, lb="ROUND_ROBIN", outlier={"consecutive_5xx": 3, "max_percent": 50}
    )
    with serving(good, config=config) as proxy:
        for _ in range(30):
            client = proxy.dial()
            client.send(b"x")
            assert client.exactly(1) == b"x"
            client.close()
        assert proxy.counter("od_ejections") == 1
        assert proxy.counter("tcp_connect_again") == 3


def test_max_connections() -> None:
    with tcp(Upstream(echo), max_connections=2) as proxy:
        clients = [proxy.dial() for _ in range(2)]
        for client in clients:
            client.send(b"a")
            assert client.exactly(1) == b"a"
        assert dial_is_reset(proxy)
        assert record(proxy)["flags"] == UO and proxy.counter("tcp_overflow") == 1
        clients[0].close()
        wait_for(lambda: proxy.counter("tcp_done") == 2)
        client = proxy.dial()
        client.send(b"b")
        assert client.exactly(1) == b"b"


def test_weights() -> None:
    upstreams = [named(b"a"), named(b"b")]
    config = tcp_config(upstreams[0].port)
    config["clusters"].append({**config["clusters"][0], "name": "d"})
    config["clusters"][1]["endpoints"] = [{"address": "127.0.0.1", "port": upstreams[1].port}]
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    route["dests"] = [{"cluster": "c", "weight": 30}, {"cluster": "d", "weight": 10}]
    with serving(*upstreams, config=config) as proxy:
        got = Counter(proxy.dial().rest() for _ in range(400))
        # binomial, five standard deviations
        assert set(got) == {b"a", b"b"} and 256 <= got[b"a"] <= 344


def test_a_session_on_which_nothing_moves_ends() -> None:
    seen: list[bool] = []
    with tcp(Upstream(lambda peer: seen.append(was_reset(peer.sock))), idle_timeout_ms=200) as proxy:
        assert dial_is_reset(proxy)
        assert record(proxy)["flags"] == SI and proxy.counter("tcp_idle") == 1
        wait_for(lambda: seen == [True])


def test_a_session_ends_when_it_is_old() -> None:
    stop = threading.Event()

    def talk(peer: Peer) -> None:
        while not stop.wait(0.01):
            peer.send(b"x")

    with tcp(Upstream(talk), max_age_ms=300) as proxy:
        assert dial_is_reset(proxy)
        assert record(proxy)["flags"] == DT and proxy.counter("tcp_age") == 1
        stop.set()


def test_config_changes_end_no_session() -> None:
    first, second = Upstream(echo), Upstream(lambda peer: peer.send(b"second"))
    with serving(first, second, config=tcp_config(first.port), log=True) as proxy:
        client = proxy.dial()
        client.send(b"1")
        assert client.exactly(1) == b"1"
        proxy.publish(tcp_config(second.port))
        assert proxy.dial().rest() == b"second"
        config = tcp_config(second.port)
        config["clusters"] = []  # even its cluster is gone
        proxy.publish(config)
        client.send(b"2")
        assert client.exactly(1) == b"2"
        client.close()
        assert {record(proxy)["flags"] for _ in range(2)} == {0}


def test_a_drain_waits_for_sessions() -> None:
    upstream = Upstream(echo)
    proxy = WorkerProxy(tcp_config(upstream.port), log=True)
    with contextlib.closing(upstream), contextlib.closing(proxy):
        client = proxy.dial()
        client.send(b"1")
        assert client.exactly(1) == b"1"
        proxy.drain(30)
        wait_for(lambda: proxy.segment.worker(0)["state"] == 3)
        client.send(b"2")
        assert client.exactly(1) == b"2"
        client.close()
        assert proxy.wait_exit() == 0
        assert record(proxy)["flags"] == 0


def test_a_drain_does_not_wait_for_ever() -> None:
    upstream = Upstream(echo)
    proxy = WorkerProxy(tcp_config(upstream.port))
    with contextlib.closing(upstream), contextlib.closing(proxy):
        client = proxy.dial()
        client.send(b"1")
        assert client.exactly(1) == b"1"
        proxy.drain(0.1)
        assert was_reset(client.sock)
        assert proxy.wait_exit() == 0


def test_bytes_of_a_long_session_are_told_while_it_goes_on() -> None:
    with tcp(Upstream(echo)) as proxy:
        client = proxy.dial()
        client.send(b"12345")
        assert client.exactly(5) == b"12345"
        wait_for(lambda: [s["rx_bytes"][0] for s in series(proxy)] == [5], timeout=15)
        (s,) = series(proxy)
        assert (s["opened"], s["count"]) == (1, 0)


def test_bytes_that_change_between_small_and_bulk_keep_their_order() -> None:
    """Through a pipe and past it in turn, with readers that pause."""
    sizes = [1, 3_000_000, 10, 700_000, 1, 1, 5_000_000, 100]
    data = data_of(sum(sizes))
    got: list[bytes] = []

    def slowly(peer: Peer) -> None:
        out, n = bytearray(), 1000
        while part := peer.sock.recv(n):
            out += part
            n = 65536 if n == 1000 else 1000 if len(out) % 3 == 0 else n
        got.append(bytes(out))
        peer.send(b"done")

    with tcp(Upstream(slowly)) as proxy:
        client = proxy.dial()
        client.sock.settimeout(60)
        at = 0
        for size in sizes:
            client.send(data[at : at + size])
            at += size
            wait_for(lambda at=at: proxy.segment.counters()["tcp_total"] == 1)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b"done"
        assert got == [data] and proxy.counter("tcp_spliced") > 0


def test_more_bulk_sessions_than_there_are_pipes() -> None:
    """Those above the limit go by reads and writes: slower, and as they should."""
    gate = threading.Event()
    data = data_of(6 << 20)  # more than the sockets on its way hold

    def later(peer: Peer) -> None:
        peer.sock.settimeout(60)
        gate.wait(60)
        peer.send(len(read_all(peer.sock)).to_bytes(8, "big"))

    upstream = Upstream(later)
    upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    with tcp(upstream) as proxy:
        clients = [proxy.dial() for _ in range(132)]
        for client in clients:
            client.sock.settimeout(60)
            Sending(client.sock, data)
        wait_for(lambda: proxy.counter("pauses") >= 132, timeout=60)
        gate.set()
        assert {client.rest() for client in clients} == {len(data).to_bytes(8, "big")}
