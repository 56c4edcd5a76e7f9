"""The sidecar's end of the session, without sockets: which certificate goes with which key."""

from __future__ import annotations

import pytest

from fastmesh.agent import subscriber as module
from fastmesh.agent.loop import Loop
from fastmesh.agent.subscriber import Subscriber
from fastmesh.model import wire

ID = "spiffe://cluster.local/ns/default/sa/reviews"
BUNDLE = {"service": "reviews", "namespace": "default", "control": "tcp://h:1", "token": "t"}


class Identity:
    """Keeps what is asked of the key helper; the test answers."""

    spiffe_id, instance, chain, roots = ID, "i1", b"chain", b"roots"
    curve_public = curve_secret = b""
    has_cert, renew_at = True, float("inf")

    def __init__(self):
        self.asked = []
        self.installed = []

    def request(self, made, **what):
        self.asked.append((made, what))

    def install(self, key, chain, *rest):
        self.installed.append((key, chain))


class Channel:
    """Keeps what is sent."""

    def __init__(self, *args):
        self.sent = []

    def send(self, frame):
        self.sent.append(wire.decode(frame, wire.REQUESTS))

    def close(self):
        pass


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(module, "Channel", Channel)
    errors: list[BaseException] = []
    info = {"address": "127.0.0.1", "port": 1, "app_port": 2}
    made = Subscriber(Loop(errors.append), BUNDLE, Identity(), "", lambda state: None, info)
    made._open()
    yield made
    made.close()
    assert errors == []


def answer(asker, request, kind, **fields):
    asker._on_frame(wire.encode(kind, re=request["id"], **fields))


def certificate(session, request, chain):
    answer(
        session,
        request,
        "certificate",
        chain=chain,
        roots=b"r",
        spiffe_id=ID,
        issued=1,
        not_before=1,
        not_after=9,
    )


def welcome(session):
    fields = {"protocol": 1, "session": "s", "epoch": "e", "incarnation": "c", "heartbeat": 2.0, "lease": 6.0}
    session._channel.subscribe = lambda topics: None
    answer(session, session._channel.sent[-1], "welcome", **fields)


def test_of_two_renewals_that_overlap_each_certificate_goes_with_its_own_key(session):
    welcome(session)
    sent, asked = session._channel.sent, session._identity.asked
    session._renew()
    answer(session, sent[-1], "nonce", nonce=b"1")
    session._renew()
    second = sent[-1]
    asked[0][0]({"key": b"key 1", "csr": b"c", "signature": b"s"}, "")
    renewal = sent[-1]
    answer(session, second, "nonce", nonce=b"2")
    asked[1][0]({"key": b"key 2", "csr": b"c", "signature": b"s"}, "")
    certificate(session, renewal, b"chain 1")
    certificate(session, sent[-1], b"chain 2")
    assert session._identity.installed == [(b"key 1", b"chain 1"), (b"key 2", b"chain 2")]


def test_a_join_whose_helper_was_given_up_is_begun_again(session):
    """The connection ends while the key of a new join is made, and the proof of identity takes the helper."""
    asked = session._identity.asked
    refusal = {"code": wire.E_IDENTITY, "message": "no"}
    answer(session, session._channel.sent[-1], "error", **refusal)
    assert asked[-1][1] == {"new_key": True}, "joins anew"
    session._on_lost("gone", 0.0)
    session._open()
    answer(session, session._channel.sent[-1], "error", code=wire.E_PROOF, message="prove", nonce=b"n")
    asked[-1][0]({"signature": b"s"}, "")
    answer(session, session._channel.sent[-1], "error", **refusal)
    assert asked[-1][1] == {"new_key": True}
    asked[-1][0]({"key": b"key", "csr": b"c"}, "")
    assert session._channel.sent[-1]["t"] == "join"
