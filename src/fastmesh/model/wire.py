"""The control protocol on the wire: message types, their fields and bounds, strict decoding, topics and
digests.

Owns the format that a sidecar's agent and the control plane speak (msgpack maps over ZeroMQ). It must not
know sockets, state or policy; a topic's payload is an opaque byte string here. Both ends import it, so it
stays free of anything heavy.

Every message is a map with "t" (its type). Requests carry "id", an answer repeats it as "re". A message with
an unknown type, an unknown or missing field, or a value out of its bounds is refused whole with a WireError
that names the field.

Topics: `svc/<host>` one service (its routes, clusters, endpoints), `ns/<namespace>` policy of a namespace,
`trust` the mesh's roots. A pattern is a topic or a prefix that ends with "/". On the publishing socket a
topic is followed by TOPIC_END, because ZeroMQ matches subscriptions as prefixes and `ns/a` must not match
`ns/ab`.
"""

from __future__ import annotations

import zlib

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Check = Callable[[Any], bool]
    Message = dict[str, Any]

PROTOCOL_VERSION = 1
PROTOCOL_MIN = 1

# Bounds. A frame from a sidecar is small (acks name topics, never carry them); one to a sidecar carries parts
# of a snapshot.
MAX_REQUEST = 2 << 20
MAX_REPLY = 16 << 20
PART_BYTES = (
    512 << 10
)  # a snapshot is cut into parts of about this size, so that no frame grows with the mesh
MAX_TOPICS = 20_000
MAX_TOPIC = 300
MAX_PATTERNS = 1_000
MAX_DEPTH = 24  # of a topic's payload; a fragment needs about 10
MAX_NODES = 2_000_000  # values in one payload
MAX_REASON = 4_000

TOPIC_END = b"\n"
TRUST = "trust"
PULSE = (
    "pulse"  # published every heartbeat: {epoch, version}; shows a subscriber that its updates socket lives
)
BARRIER = "barrier/"  # + session: published once that subscription is seen, so all before it are in force

# Codes of "error" messages.
E_PROTOCOL = "protocol_version"  # no version in common
E_MALFORMED = "malformed"
E_NO_SESSION = "no_session"  # say hello first
E_PROOF = "proof_required"  # the key is not known: prove the identity (answer carries a nonce)
E_TOKEN_BAD = "bad_token"
E_TOKEN_EXPIRED = "expired_token"
E_CSR = "bad_csr"
E_IDENTITY = "wrong_identity"
E_SUPERSEDED = "superseded"  # a newer process uses this instance id
E_UNAVAILABLE = "unavailable"  # try again later
# A join refused with one of these will be refused again: a user has to act.
JOIN_FATAL = (E_TOKEN_BAD, E_TOKEN_EXPIRED, E_CSR, E_IDENTITY, E_PROTOCOL)


class WireError(ValueError):
    """A frame that is not a message of this protocol."""


def text(limit: int, least: int = 1) -> Check:
    """A string of `least` to `limit` characters without control characters."""
    return lambda v: type(v) is str and least <= len(v) <= limit and (v == "" or v.isprintable())


def prose(limit: int) -> Check:
    """Text for people: line ends are allowed."""
    return lambda v: type(v) is str and len(v) <= limit


def blob(limit: int, least: int = 0) -> Check:
    return lambda v: type(v) is bytes and least <= len(v) <= limit


def number(low: int, high: int) -> Check:
    return lambda v: type(v) is int and low <= v <= high


def real(v: Any) -> bool:
    """A finite number: JSON, in which it may be shown, has no others."""
    return type(v) is int or (type(v) is float and v - v == 0)


def flag(v: Any) -> bool:
    return type(v) is bool


def listing(limit: int, item: Check) -> Check:
    return lambda v: type(v) is list and len(v) <= limit and all(item(i) for i in v)


def table(limit: int, key: Check, value: Check) -> Check:
    return lambda v: type(v) is dict and len(v) <= limit and all(key(k) and value(x) for k, x in v.items())


def pair(first: Check, second: Check) -> Check:
    return lambda v: type(v) is list and len(v) == 2 and first(v[0]) and second(v[1])


def optional(check: Check) -> Check:
    return lambda v: v is None or check(v)


def _topic(v: Any) -> bool:
    return type(v) is str and 0 < len(v) <= MAX_TOPIC and v.isprintable()


_version = number(0, 1 << 62)
_crc = number(0, 0xFFFFFFFF)
_epoch = text(64)
_label = text(253, 0)
_scalar = prose(300)

# Fields whose names end with "?" may be absent.
INFO: dict[str, Check] = {
    "service": text(63),
    "namespace": text(63),
    "address": text(253),  # where other sidecars reach this one's inbound listener
    "port": number(1, 65535),
    "app_port": number(1, 65535),
    "labels?": table(64, text(317), _label),
    "release?": text(64),  # of fastmesh
    "workers?": number(0, 1024),
}
STATUS: dict[str, Check] = {
    "generation?": number(0, 1 << 62),
    "workers?": number(0, 1024),
    "counters?": table(256, text(120), real),
    "unlisted?": flag,  # takes no requests (yet, or any more): no endpoint of its service
}


def record(fields: dict[str, Check]) -> Check:
    """A map with exactly these fields."""

    def check(v: Any) -> bool:
        return type(v) is dict and _misfit(v, fields) is None

    return check


_PROOF: dict[str, Check] = {"chain?": blob(64 << 10, 1), "nonce?": blob(256, 1), "signature?": blob(512, 1)}

REQUESTS: dict[str, dict[str, Check]] = {
    "challenge": {},
    "join": {
        "token": text(256),
        "csr": blob(16 << 10, 1),
        "instance": text(64),
        "protocol": pair(number(1, 999), number(1, 999)),
    },
    "hello": {
        "protocol": pair(number(1, 999), number(1, 999)),
        "instance": text(64),
        "boot": text(64),  # one process's life; a second boot of a live instance supersedes the first
        "yielding?": flag,  # do not supersede: asks whether the process that superseded this one has gone
        "info": record(INFO),
        "patterns": listing(MAX_PATTERNS, _topic),
        **_PROOF,
    },
    "renew": {
        "csr": blob(16 << 10, 1),
        "chain": blob(64 << 10, 1),
        "nonce": blob(256, 1),
        "signature": blob(512, 1),
    },
    "subscribe": {"patterns": listing(MAX_PATTERNS, _topic)},
    # The topics held, with the version and checksum of each; "topics" narrows the question to those.
    "sync": {
        "known": table(MAX_TOPICS, _topic, pair(_version, _crc)),
        "topics?": listing(MAX_TOPICS, _topic),
    },
    "ack": {
        "versions": table(MAX_TOPICS, _topic, _version),
        "full?": flag,  # these are all topics served, not only what changed
        "status?": record(STATUS),
    },
    "nack": {"topic": _topic, "version": _version, "reason": prose(MAX_REASON)},
    "heartbeat": {"digest": _crc, "status?": record(STATUS)},
    "report": {"data": blob(MAX_REQUEST)},
    "goodbye": {},
}

REPLIES: dict[str, dict[str, Check]] = {
    "nonce": {"nonce": blob(256, 1)},
    "certificate": {
        "chain": blob(64 << 10, 1),
        "roots": blob(256 << 10, 1),
        "spiffe_id": text(2048),
        "issued": number(0, 1 << 40),  # its life counts from here; not_before is dated back
        "not_before": number(0, 1 << 40),
        "not_after": number(0, 1 << 40),
    },
    "welcome": {
        "protocol": number(1, 999),
        "session": text(64),
        "epoch": _epoch,
        "incarnation": text(64),  # one life of the control plane's process
        "heartbeat": real,
        "lease": real,
    },
    "snapshot": {
        "epoch": _epoch,
        "version": _version,  # the control plane's newest when this was made
        "topics": table(MAX_TOPICS, _topic, pair(_version, blob(MAX_REPLY))),
        "removed": listing(MAX_TOPICS, _topic),
        "last": flag,
    },
    "alive": {"epoch": _epoch, "digest": _crc},
    "fetch": {"what": text(64)},
    "ok": {},
    "error": {"code": text(64), "message": prose(MAX_REASON), "nonce?": blob(256, 1)},
}

UPDATES: dict[str, dict[str, Check]] = {
    "update": {"epoch": _epoch, "version": _version, "prev": _version, "data": optional(blob(MAX_REPLY))},
    "pulse": {"epoch": _epoch, "version": _version},
    "barrier": {},
}


def _misfit(message: dict[Any, Any], fields: dict[str, Check]) -> str | None:
    """What is wrong with a message, None when it fits."""
    left = len(message)
    for name, check in fields.items():
        if name[-1] == "?":
            name = name[:-1]
            if name not in message:
                continue
        elif name not in message:
            return f"field {name!r} is missing"
        if not check(message[name]):
            return f"field {name!r} is out of its bounds"
        left -= 1
    if left:
        known = {name.rstrip("?") for name in fields}
        return f"unknown field {next(k for k in message if k not in known)!r:.80}"
    return None


def _refuse_ext(code: int, data: bytes) -> Any:
    raise WireError(f"extension type {code} is not part of the protocol")


def _unpack(frame: bytes, limit: int) -> Any:
    if len(frame) > limit:
        raise WireError(f"{len(frame)} bytes where at most {limit} are allowed")
    try:
        return msgpack.unpackb(frame, raw=False, strict_map_key=True, ext_hook=_refuse_ext)
    except WireError:
        raise
    except Exception as error:  # msgpack has no common base class for what it raises
        raise WireError(f"not msgpack: {type(error).__name__} {error!s:.100}") from None


def encode(kind: str, **fields: Any) -> bytes:
    """The frame of a message."""
    packed: bytes = msgpack.packb({"t": kind, **fields}, use_bin_type=True)
    return packed


def decode(frame: bytes, types: Mapping[str, dict[str, Check]], limit: int = MAX_REPLY) -> Message:
    """The message in a frame, checked against `types` (REQUESTS, REPLIES or UPDATES); WireError when it
    does not fit."""
    message = _unpack(frame, limit)
    if type(message) is not dict:
        raise WireError("a message is a map")
    kind = message.pop("t", None)
    fields = types.get(kind) if type(kind) is str else None
    if fields is None:
        raise WireError(f"unknown message type {kind!r:.80}")
    numbers: Message = {}
    for name in ("id", "re"):
        if name in message:
            value = message.pop(name)
            if type(value) is not int or not 0 <= value <= 1 << 62:
                raise WireError(f"{kind}: field {name!r} is out of its bounds")
            numbers[name] = value
    misfit = _misfit(message, fields)
    if misfit:
        raise WireError(f"{kind}: {misfit}")
    message.update(numbers)
    message["t"] = kind
    return message


def pack_payload(data: Any) -> bytes:
    """A topic's content as bytes; equal content gives equal bytes (maps are sorted by key)."""
    packed: bytes = msgpack.packb(_sorted(data), use_bin_type=True)
    return packed


def _sorted(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _sorted(data[key]) for key in sorted(data)}
    if isinstance(data, (list, tuple)):
        return [_sorted(item) for item in data]
    return data


def unpack_payload(payload: bytes) -> Any:
    """A topic's content; WireError when it is deeper or larger than any content may be, or of foreign
    types."""
    data = _unpack(payload, MAX_REPLY)
    level, nodes, depth = [data], 0, 0
    while level:
        nodes += len(level)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise WireError("payload too deep or too large")
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                below.extend(value.values())
            elif type(value) is list:
                below.extend(value)
            elif value is not None and type(value) not in (str, bytes, int, float, bool):
                raise WireError(f"payload holds a {type(value).__name__}")
        level, depth = below, depth + 1
    return data


def checksum(payload: bytes) -> int:
    return zlib.crc32(payload)


def digest(topics: Iterable[tuple[str, int, int]]) -> int:
    """One number for a set of (topic, version, checksum): both ends compare it to see that they hold the
    same."""
    value = 0
    for topic, version, crc in sorted(topics):
        value = zlib.crc32(b"%s\0%d\0%d\n" % (topic.encode(), version, crc), value)
    return value


def matches(topic: str, patterns: Iterable[str]) -> bool:
    """Does a topic fall under one of the patterns?"""
    return any(topic == p or (p[-1] == "/" and topic.startswith(p)) for p in patterns)


def effective_mtls(policy: Mapping[str, Any], labels: Mapping[str, str], port: int) -> str:
    """ "strict", "permissive" or "disable" for the inbound side of a workload with these labels, from its
    namespace's topic.

    Istio's precedence: port, workload, namespace, mesh; UNSET inherits."""
    modes: list[str] = []
    for own in policy.get("selective", ()):
        if all(labels.get(k) == v for k, v in own["labels"].items()):
            modes += [own["ports"].get(str(port), "UNSET"), own["mode"]]
            break
    modes += [general["mode"] for general in policy.get("general", ())]
    mode: str = next((m for m in modes if m != "UNSET"), policy.get("default", "STRICT"))
    return mode.lower()


def effective_limits(policy: Mapping[str, Any], labels: Mapping[str, str]) -> list[Any]:
    """The routes with rate limits for the inbound side of a workload with these labels, in order, from its
    namespace's topic."""
    return [
        route
        for own in policy.get("limits", ())
        if all(labels.get(k) == v for k, v in own["labels"].items())
        for route in own["routes"]
    ]


CLOSED = {"name": "not-known-yet", "namespace": "", "action": "ALLOW", "rules": ()}
"""What a sidecar goes by that does not know its namespace's policies: nobody may come in."""


def effective_policies(policy: Mapping[str, Any], labels: Mapping[str, str]) -> list[Any]:
    """The AuthorizationPolicies (model/ir: Policy) for a workload with these labels, from its namespace's
    topic."""
    return [
        own["policy"]
        for own in policy.get("authorization", ())
        if all(labels.get(k) == v for k, v in own["labels"].items())
    ]


def subscription(pattern: str) -> bytes:
    """What to subscribe on the updates socket for a pattern."""
    return pattern.encode() if pattern[-1] == "/" else pattern.encode() + TOPIC_END


def negotiate(low: int, high: int) -> int | None:
    """The newest protocol version that both ends speak, None when there is none."""
    version = min(high, PROTOCOL_VERSION)
    return version if version >= max(low, PROTOCOL_MIN) else None
