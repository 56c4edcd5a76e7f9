"""The wire format: strict decoding, bounds, digests, topics; no input raises anything but WireError."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.model import wire

VALID = [
    (wire.REQUESTS, "challenge", {}),
    (wire.REQUESTS, "sync", {"known": {"svc/a": [3, 77]}}),
    (wire.REQUESTS, "ack", {"versions": {"svc/a": 3}, "full": True, "status": {"workers": 2}}),
    (wire.REQUESTS, "heartbeat", {"digest": 5}),
    (wire.REPLIES, "snapshot", {"epoch": "e", "version": 1, "topics": {}, "removed": ["x"], "last": True}),
    (wire.REPLIES, "error", {"code": "c", "message": "two\nlines"}),
    (wire.UPDATES, "update", {"epoch": "e", "version": 2, "prev": 1, "data": None}),
    (wire.UPDATES, "barrier", {}),
]


@pytest.mark.parametrize(("types", "kind", "fields"), VALID)
def test_what_is_encoded_is_decoded(types, kind, fields):
    assert wire.decode(wire.encode(kind, id=7, **fields), types) == {"t": kind, "id": 7, **fields}


@pytest.mark.parametrize(("types", "kind", "fields"), VALID)
def test_every_cut_and_every_trailing_byte_is_refused(types, kind, fields):
    frame = wire.encode(kind, **fields)
    for end in range(len(frame)):
        with pytest.raises(wire.WireError):
            wire.decode(frame[:end], types)
    with pytest.raises(wire.WireError):
        wire.decode(frame + b"\x00", types)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"t": "heartbeat"}, "'digest' is missing"),
        ({"t": "heartbeat", "digest": -1}, "'digest' is out of its bounds"),
        ({"t": "heartbeat", "digest": True}, "'digest' is out of its bounds"),
        ({"t": "heartbeat", "digest": 1.0}, "'digest' is out of its bounds"),
        ({"t": "heartbeat", "digest": 1, "more": 1}, "unknown field 'more'"),
        ({"t": "heartbeat", "digest": 1, "id": -1}, "'id' is out of its bounds"),
        ({"t": "heartbeat", "digest": 1, "status": {"pids": 1}}, "'status' is out of its bounds"),
        ({"t": "nonsense"}, "unknown message type"),
        ({"t": 5}, "unknown message type"),
        ({}, "unknown message type"),
        ([], "a message is a map"),
        (5, "a message is a map"),
        ({"t": "sync", "known": {"a\nb": [1, 2]}}, "'known' is out of its bounds"),
        ({"t": "sync", "known": {"a": [1, 2, 3]}}, "'known' is out of its bounds"),
        ({"t": "nack", "topic": "x" * 301, "version": 1, "reason": ""}, "'topic' is out of its bounds"),
        ({"t": "join", "token": "", "csr": b"x", "instance": "i", "protocol": [1, 1]}, "'token'"),
        ({"t": "join", "token": "t", "csr": "text", "instance": "i", "protocol": [1, 1]}, "'csr'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(message, says):
    with pytest.raises(wire.WireError, match=says):
        wire.decode(msgpack.packb(message), wire.REQUESTS)


def test_size_depth_and_foreign_types_are_bounded():
    with pytest.raises(wire.WireError, match="at most 100"):
        wire.decode(wire.encode("report", data=b"x" * 100), wire.REQUESTS, 100)
    with pytest.raises(wire.WireError, match="extension"):
        wire.decode(msgpack.packb({"t": "report", "data": msgpack.ExtType(5, b"")}), wire.REQUESTS)
    with pytest.raises(wire.WireError):
        wire.unpack_payload(msgpack.packb(msgpack.Timestamp(1)))
    deep: object = 1
    for _ in range(wire.MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(wire.WireError, match="too deep"):
        wire.unpack_payload(msgpack.packb(deep))
    with pytest.raises(wire.WireError):
        wire.unpack_payload(b"\x91" * 100_000)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(frame):
    for types in (wire.REQUESTS, wire.REPLIES, wire.UPDATES):
        with pytest.raises(wire.WireError):
            wire.decode(frame, types)
            raise wire.WireError("it happened to be a message")


@given(st.sampled_from(sorted(wire.REQUESTS)), st.data())
def test_no_values_raise_anything_else(kind, data):
    names = [name.rstrip("?") for name in wire.REQUESTS[kind]]
    message = {name: data.draw(PLAIN) for name in names}
    try:
        wire.decode(msgpack.packb({"t": kind, **message}), wire.REQUESTS)
    except wire.WireError as error:
        assert kind in str(error) or "msgpack" in str(error)


@given(PLAIN)
def test_payloads_survive_and_equal_content_has_equal_bytes(content):
    packed = wire.pack_payload(content)
    assert wire.unpack_payload(packed) == content
    assert wire.pack_payload(wire.unpack_payload(packed)) == packed


def test_equal_maps_have_equal_bytes_whatever_their_order():
    assert wire.pack_payload({"a": 1, "b": {"x": 1, "y": 2}}) == wire.pack_payload(
        {"b": {"y": 2, "x": 1}, "a": 1}
    )


TOPICS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@given(TOPICS, TOPICS)
def test_digests_are_equal_only_for_equal_sets(one, other):
    first = wire.digest((t, v, c) for t, (v, c) in one.items())
    second = wire.digest((t, v, c) for t, (v, c) in reversed(other.items()))
    assert (first == second) == (one == other)


def test_patterns_are_topics_or_prefixes():
    assert wire.matches("svc/a", ["svc/"]) and wire.matches("trust", ["trust"])
    assert not wire.matches("ns/ab", ["ns/a"]) and not wire.matches("svc", ["svc/"])
    # As ZeroMQ sees it: a prefix of topic + TOPIC_END.
    assert (b"ns/a" + wire.TOPIC_END).startswith(wire.subscription("ns/a"))
    assert not (b"ns/ab" + wire.TOPIC_END).startswith(wire.subscription("ns/a"))
    assert (b"svc/x" + wire.TOPIC_END).startswith(wire.subscription("svc/"))


@pytest.mark.parametrize(
    ("low", "high", "chosen"), [(1, 1, 1), (1, 9, wire.PROTOCOL_VERSION), (2, 9, None), (9, 99, None)]
)
def test_the_newest_common_version_is_chosen(low, high, chosen):
    assert wire.negotiate(low, high) == (chosen if low <= wire.PROTOCOL_VERSION else None)


@pytest.mark.parametrize(
    ("selective", "general", "mode"),
    [
        ([], [], "strict"),
        ([], [{"mode": "PERMISSIVE"}], "permissive"),
        ([], [{"mode": "UNSET"}, {"mode": "DISABLE"}], "disable"),
        ([{"labels": {"v": "1"}, "mode": "DISABLE", "ports": {}}], [{"mode": "PERMISSIVE"}], "disable"),
        ([{"labels": {"v": "2"}, "mode": "DISABLE", "ports": {}}], [{"mode": "PERMISSIVE"}], "permissive"),
        ([{"labels": {"v": "1"}, "mode": "STRICT", "ports": {"9080": "PERMISSIVE"}}], [], "permissive"),
        ([{"labels": {"v": "1"}, "mode": "DISABLE", "ports": {"1": "PERMISSIVE"}}], [], "disable"),
        ([{"labels": {"v": "1"}, "mode": "UNSET", "ports": {}}], [{"mode": "PERMISSIVE"}], "permissive"),
    ],
)
def test_the_policy_that_counts_is_istios(selective, general, mode):
    policy = {"selective": selective, "general": general, "default": "STRICT"}
    assert wire.effective_mtls(policy, {"v": "1"}, 9080) == mode
