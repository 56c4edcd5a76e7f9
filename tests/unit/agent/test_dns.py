"""agent/dns.py, with a resolver that the test answers for."""

from __future__ import annotations

from typing import Any

import pytest

from fastmesh.agent import dns
from fastmesh.agent.loop import Loop
from fastmesh.supervisor.log import Log


class Names:
    """Answers instead of the system's resolver; an empty list is a failure."""

    def __init__(self) -> None:
        self.table: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def lookup(self, host: str) -> tuple[list[str], str]:
        self.asked.append(host)
        found = self.table.get(host, [])
        return found, "" if found else "Name or service not known"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(dns, "lookup", made.lookup)
    monkeypatch.setattr(dns, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(dns, "RETRY_SECONDS", 0.01)
    return made


def config(*endpoints: tuple[str, int]) -> Any:
    return {
        "clusters": [
            {"name": "c", "endpoints": [{"address": a, "port": p, "weight": 2} for a, p in endpoints]}
        ]
    }


def addresses(made: Any) -> list[tuple[str, int]]:
    return [(e["address"], e["port"]) for e in made["clusters"][0]["endpoints"]]


class Bench:
    def __init__(self) -> None:
        self.loop = Loop(self.failed)
        self.changes = 0
        self.resolver = dns.Resolver(self.loop, Log("t", fd=-1), self.changed)

    def failed(self, error: BaseException) -> None:
        raise AssertionError from error

    def changed(self) -> None:
        self.changes += 1

    def until(self, condition: Any) -> None:
        def look() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.call_later(0.005, look)

        late = self.loop.call_later(10, self.loop.stop)
        look()
        self.loop.run()
        late.cancel()
        assert condition()


def test_literals_stay_and_twice_the_same_is_once(names: Names) -> None:
    bench = Bench()
    made = bench.resolver.substitute(config(("10.0.0.1", 1), ("::1", 1), ("10.0.0.1", 1), ("10.0.0.1", 2)))
    assert addresses(made) == [("10.0.0.1", 1), ("::1", 1), ("10.0.0.1", 2)]
    assert names.asked == []


def test_a_name_becomes_each_of_its_addresses(names: Names) -> None:
    names.table["app"] = ["10.0.0.1", "10.0.0.2"]
    bench = Bench()
    wanted = config(("app", 80))
    assert addresses(bench.resolver.substitute(wanted)) == []
    bench.until(lambda: bench.changes == 1)
    made = bench.resolver.substitute(wanted)
    assert addresses(made) == [("10.0.0.1", 80), ("10.0.0.2", 80)]
    assert made["clusters"][0]["endpoints"][0] == {
        "address": "10.0.0.1",
        "port": 80,
        "weight": 2,
        "host": "app",
    }
    assert wanted == config(("app", 80))


def test_a_change_is_told_and_the_same_again_is_not(names: Names) -> None:
    names.table["app"] = ["10.0.0.1"]
    bench = Bench()
    bench.resolver.substitute(config(("app", 80)))
    bench.until(lambda: len(names.asked) >= 4)
    assert bench.changes == 1
    names.table["app"] = ["10.0.0.9"]
    bench.until(lambda: bench.changes == 2)
    assert bench.resolver.known == {"app": ["10.0.0.9"]}


def test_a_failure_keeps_the_last_addresses(names: Names) -> None:
    names.table["app"] = ["10.0.0.1"]
    bench = Bench()
    bench.resolver.substitute(config(("app", 80)))
    bench.until(lambda: bench.changes == 1)
    names.table["app"] = []
    bench.until(lambda: bench.resolver.failures >= 2)
    assert bench.changes == 1
    assert addresses(bench.resolver.addressed(config(("app", 80)))) == [("10.0.0.1", 80)]


def test_a_name_that_comes_late_is_asked_for_again(names: Names) -> None:
    bench = Bench()
    bench.resolver.substitute(config(("app", 80)))
    bench.until(lambda: bench.resolver.failures >= 2)
    names.table["app"] = ["10.0.0.1"]
    bench.until(lambda: bench.changes == 1)


def test_what_is_no_longer_wanted_is_forgotten(names: Names) -> None:
    names.table["app"] = ["10.0.0.1"]
    bench = Bench()
    bench.resolver.substitute(config(("app", 80)))
    bench.until(lambda: bench.changes == 1)
    bench.resolver.substitute(config(("10.0.0.1", 80)))
    seen = len(names.asked)
    bench.loop.call_later(0.1, bench.loop.stop)
    bench.loop.run()
    assert len(names.asked) <= seen + 1
    assert bench.resolver.known == {}


def test_many_names_are_asked_for_a_few_at_a_time(names: Names) -> None:
    bench = Bench()
    hosts = [f"app-{i}" for i in range(30)]
    names.table = {host: ["10.0.0.1"] for host in hosts}
    bench.resolver.substitute(config(*((host, 80) for host in hosts)))
    assert len(bench.resolver._busy) <= dns.THREADS
    bench.until(lambda: len(bench.resolver.known) == 30)


def test_the_real_lookup() -> None:
    found, reason = dns.lookup("localhost")
    assert "127.0.0.1" in found or "::1" in found
    assert reason == ""
    assert dns.lookup("never.invalid")[0] == []
    assert dns.lookup("nicht-äscii")[0] == [] and dns.lookup("nicht-äscii")[1]


def test_without_a_thread_a_name_is_asked_for_again(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.table.update({f"n{i}": ["10.0.0.1"] for i in range(2 * dns.THREADS)})
    start, left = dns._thread.start_new_thread, [dns.THREADS + 1]

    def refuse(*args: Any) -> int:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        return start(*args)

    monkeypatch.setattr(dns._thread, "start_new_thread", refuse)
    bench = Bench()
    bench.resolver.substitute(config(*((name, 80) for name in names.table)))
    bench.until(lambda: len(bench.resolver.known) == len(names.table))


def test_addresses_of_one_link_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*args: Any) -> Any:
        return [(10, 1, 6, "", ("fe80::1%eth0", 0, 0, 2)), (2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(dns._socket, "getaddrinfo", answer)
    assert dns.lookup("app") == (["10.0.0.1"], "")
