"""Who has no identity gets nothing, and garbage harms nobody: raw ZeroMQ clients against a control plane."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from fastmesh.agent import keygen
from fastmesh.model import wire
from helpers import wait_for
from integration.controlplane import ControlPlane, TestAgent
from integration.test_control_plane import split

SEED = 20
FRAMES = 400


@pytest.fixture
def plane(spawn, tmp_path):
    return ControlPlane(spawn, tmp_path)


@pytest.fixture
def dial(plane) -> Iterator[Any]:
    """Open a socket to the control plane with a CURVE key of its own."""
    context = zmq.Context()
    bundle = json.loads(plane.bundle("stranger").read_text())

    def open_(kind: int, which: str = "control", server_key: bytes | None = None) -> Any:
        socket = context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = 5000
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = server_key or bundle["server_key"].encode()
        socket.connect(bundle[which])
        return socket

    yield open_
    context.destroy(linger=0)


def ask(socket: Any, kind: str, **fields: Any) -> dict[str, Any]:
    socket.send(wire.encode(kind, id=1, **fields))
    return wire.decode(socket.recv(), wire.REPLIES)


HELLO = {
    "protocol": [1, 1],
    "instance": "abc",
    "boot": "b",
    "patterns": ["svc/"],
    "info": {"service": "x", "namespace": "default", "address": "127.0.0.1", "port": 1, "app_port": 2},
}


def test_without_a_hello_nothing_is_answered(plane, dial):
    socket = dial(zmq.DEALER)
    for kind, fields in (
        ("sync", {"known": {}}),
        ("heartbeat", {"digest": 0}),
        ("ack", {"versions": {}}),
        ("subscribe", {"patterns": ["svc/"]}),
        ("goodbye", {}),
        ("report", {"data": b""}),
        ("renew", {"csr": b"x", "chain": b"x", "nonce": b"x", "signature": b"x"}),
    ):
        assert ask(socket, kind, **fields)["code"] == wire.E_NO_SESSION, kind
    refused = ask(socket, "hello", **HELLO)
    assert refused["code"] == wire.E_PROOF
    forged = ask(socket, "hello", **HELLO, chain=b"x", nonce=refused["nonce"], signature=b"x")
    assert forged["code"] == wire.E_IDENTITY
    assert plane.proxies() == {}


def test_a_session_belongs_to_its_key(spawn, plane, dial, tmp_path):
    """The instance id of a sidecar is no secret: without its key a hello for it is refused."""
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    wait_for(lambda: plane.proxies(), what="the sidecar")
    socket = dial(zmq.DEALER)
    assert ask(socket, "hello", **{**HELLO, "instance": agent.instance})["code"] == wire.E_PROOF
    assert agent.instance in plane.proxies()
    assert not agent.events("warning")


def enter(plane, socket: Any) -> None:
    """Join by the book, with the token of the service `x`."""
    bundle = json.loads(plane.bundle("x").read_text())
    made = keygen.make({"spiffe_id": bundle["spiffe_id"]})
    csr, token = bytes.fromhex(made["csr"]), bundle["token"]
    assert ask(socket, "join", token=token, csr=csr, instance="abc", protocol=[1, 1])["t"] == "certificate"
    assert ask(socket, "hello", **HELLO)["t"] == "welcome"


def test_a_members_words_stay_on_their_line_and_its_numbers_are_numbers(plane, dial):
    """Whoever has a token may say what it likes: it must not write log lines of its own, nor end the list of
    proxies for everybody."""
    socket = dial(zmq.DEALER)
    enter(plane, socket)
    for value in (float("nan"), float("inf")):
        answer = ask(socket, "heartbeat", digest=0, status={"counters": {"rq_total": value}})
        assert answer["code"] == wire.E_MALFORMED
    reason = "no\n2026-01-01 WARNING forged\x1b[2J"
    socket.send(wire.encode("nack", id=2, topic="svc/x", version=1, reason=reason))
    said = wait_for(lambda: plane.proxies()["abc"]["refused"].get("svc/x"), what="the nack")
    assert said["reason"] == "no\\n2026-01-01 WARNING forged\\x1b[2J"
    assert not any("forged" in line and "refuses" not in line for line in plane.process.stderr.splitlines())


def test_other_protocol_versions_are_refused_with_words(dial):
    answer = ask(dial(zmq.DEALER), "hello", **{**HELLO, "protocol": [7, 9]})
    assert answer["code"] == wire.E_PROTOCOL and "7 to 9" in answer["message"]


def test_updates_are_for_sidecars_alone(spawn, plane, dial, tmp_path):
    socket = dial(zmq.SUB, "updates")
    socket.subscribe(b"")
    wait_for(lambda: plane.metric("fastmesh_control_connections_denied") > 0, what="the refusal")
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    agent.config()
    plane.apply(split(50))
    assert plane.ok("GET", "/v1/wait?timeout=20")["done"]
    socket.rcvtimeo = 0
    with pytest.raises(zmq.Again):
        socket.recv()


def test_a_client_that_pins_another_key_gets_no_handshake(dial):
    socket = dial(zmq.DEALER, server_key=zmq.curve_keypair()[0])
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    monitor.rcvtimeo = 5000
    event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
    assert event == zmq.EVENT_DISCONNECTED


def garbage(dice: random.Random) -> bytes:
    """A frame that is broken in one of many ways."""
    valid = wire.encode("hello", id=1, **HELLO)
    match dice.randrange(5):
        case 0:
            return dice.randbytes(dice.randrange(0, 200))
        case 1:
            return valid[: dice.randrange(len(valid))]
        case 2:
            spot = dice.randrange(len(valid))
            return valid[:spot] + dice.randbytes(1) + valid[spot + 1 :]
        case 3:
            return b"\x81\xa1t" * dice.randrange(1, 3000)
        case _:
            return b"\x91" * dice.randrange(1, 5000)


def test_garbage_is_counted_and_harms_nobody(spawn, plane, dial, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    agent.config()
    dice = random.Random(SEED)
    socket = dial(zmq.DEALER)
    for _ in range(FRAMES):
        socket.send(garbage(dice))
    socket.send_multipart([b"one", b"frame", b"too", b"many"])
    assert ask(dial(zmq.DEALER), "challenge")["t"] == "nonce"
    wait_for(lambda: plane.metric("fastmesh_control_malformed_frames_total") > FRAMES / 2, what="the count")
    plane.apply(split(50))
    assert plane.ok("GET", "/v1/wait?timeout=20")["done"]
    assert "a request failed" not in plane.process.stderr
    assert not agent.events("warning")


def test_a_frame_beyond_the_limit_ends_its_connection_only(plane, dial):
    socket = dial(zmq.DEALER)
    socket.send(b"\xc6" + (8 << 20).to_bytes(4, "big") + bytes(8 << 20))
    socket.rcvtimeo = 300
    with pytest.raises(zmq.Again):
        socket.recv()
    assert ask(dial(zmq.DEALER), "challenge")["t"] == "nonce"
    assert plane.process.alive


def test_a_challenge_cannot_be_answered_by_another(plane, dial):
    """Nonces are bound to the asker's key and to time."""
    nonce = ask(dial(zmq.DEALER), "challenge")["nonce"]
    answer = ask(dial(zmq.DEALER), "hello", **HELLO, chain=b"x", nonce=nonce, signature=b"x")
    assert answer["code"] == wire.E_IDENTITY and "not one of ours" in answer["message"]
