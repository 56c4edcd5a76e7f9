"""Sessions and leases, with time as an argument; and who may connect."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fastmesh_control.registry import Registry, Session
from fastmesh_control.server import ControlServer
from fastmesh_control.zap import ROUTER_DOMAIN, UPDATES_DOMAIN, Gate


def session(route=b"r1", instance="i1", boot="b1", key="k1"):
    return Session(
        route,
        key,
        instance,
        boot,
        "default",
        "reviews",
        "reviews",
        "spiffe://x",
        {},
        ("svc/",),
        0.0,
        0.0,
        0.0,
    )


def test_a_lease_ends_unless_it_is_renewed():
    registry = Registry(lease=6)
    first, second = session(), session(b"r2", "i2", "b2", "k2")
    registry.open(first, now=0)
    registry.open(second, now=0)
    registry.touch(second, now=4)
    assert registry.expire(5.9) == []
    assert registry.expire(6.0) == [first]
    assert registry.by_instance == {"i2": second} and registry.keys == {"k2": 1}
    assert registry.expire(6.0) == [] and registry.expired == 1


def test_the_newer_of_two_processes_wins_and_the_older_is_known():
    registry = Registry()
    older, newer = session(), session(b"r2", boot="b2")
    assert registry.open(older, 0) is None
    assert registry.holder("i1", "b2", 1) is older and registry.holder("i1", "b1", 1) is None
    assert registry.open(newer, 1) is older
    assert registry.by_route == {b"r2": newer} and registry.by_instance == {"i1": newer}
    assert registry.was_beaten("b1") and not registry.was_beaten("b2")
    assert registry.superseded == 1
    assert registry.holder("i1", "b1", 1 + registry.lease) is None, "its lease has ended"


def test_a_process_that_reconnects_supersedes_nobody_and_stays_ready():
    registry = Registry()
    first, again = session(), session(b"r2")
    registry.open(first, 0)
    assert registry.ack(first, {"a": 1}, True, None)
    assert registry.open(again, 1) is None
    assert again.ready and registry.superseded == 0
    registry.close(first)
    assert registry.by_instance == {"i1": again}, "closing what has ended harms nobody"


def test_a_control_plane_that_stood_still_lets_no_lease_end():
    """It has not read the heartbeats yet that came meanwhile: nobody leaves the lists for that."""
    registry, gone = Registry(lease=6), []
    server = object.__new__(ControlServer)
    server.registry, server._swept, server._grace_until = registry, 0.0, 0.0
    server._mesh, server._progress = SimpleNamespace(endpoints_down=gone.extend), set()
    registry.open(session(), now=0)
    server._sweep_once(0.5)
    server._sweep_once(3600.0)
    assert gone == [] and list(registry.by_instance) == ["i1"]
    for tenth in range(36005, 36050, 5):
        server._sweep_once(tenth / 10)
    assert gone == [], "what is left of the lease is left"
    server._sweep_once(3605.0)
    assert gone == ["i1"], "but a sidecar that stays silent goes"


def test_acks_add_up_and_a_full_one_replaces():
    registry = Registry()
    s = session()
    registry.open(s, 0)
    s.refused["b"] = (2, "no")
    assert registry.ack(s, {"a": 1}, False, {"workers": 2}) is True
    assert registry.ack(s, {"b": 2}, False, None) is False
    assert s.applied == {"a": 1, "b": 2} and not s.refused and s.status == {"workers": 2}
    registry.ack(s, {"b": 3}, True, None)
    assert s.applied == {"b": 3}


def test_proxies_are_found_by_any_of_their_names():
    registry = Registry()
    s = session()
    registry.open(s, 0)
    for name in ("reviews-i1.default", "reviews-i1", "i1"):
        assert registry.find(name) == [s]
    assert registry.find("reviews") == []


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ([b"1.0", b"1", ROUTER_DOMAIN, b"addr", b"", b"CURVE", b"k" * 32], b"200"),
        ([b"1.0", b"1", UPDATES_DOMAIN, b"addr", b"", b"CURVE", b"k" * 32], b"400"),
        ([b"1.0", b"1", UPDATES_DOMAIN, b"addr", b"", b"CURVE", b"m" * 32], b"200"),
        ([b"1.0", b"1", b"other", b"addr", b"", b"CURVE", b"m" * 32], b"400"),
        ([b"1.0", b"1", ROUTER_DOMAIN, b"addr", b"", b"NULL"], b"400"),
        ([b"1.0", b"1", ROUTER_DOMAIN, b"addr", b"", b"PLAIN", b"user", b"pass"], b"400"),
        ([b"2.0", b"1", ROUTER_DOMAIN, b"addr", b"", b"CURVE", b"k" * 32], b"400"),
        ([b"1.0", b"1", ROUTER_DOMAIN, b"addr", b"", b"CURVE", b"k" * 31], b"400"),
        ([], b"400"),
    ],
)
def test_the_gate(frames, status):
    gate = object.__new__(Gate)
    gate._admitted, gate.denied = {(b"m" * 32).hex()}, 0
    answer = gate.answer(frames)
    assert answer[2] == status and gate.denied == (status != b"200")
    if status == b"200":
        assert answer[4] == frames[6].hex().encode(), "the key becomes the frames' User-Id"
