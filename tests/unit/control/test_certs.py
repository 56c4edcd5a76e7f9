"""The sidecar's identity: made by a helper, kept whole on disk, served from memory when it cannot be kept."""

from __future__ import annotations

import os
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fastmesh.agent import certs
from fastmesh.agent.certs import Identity
from fastmesh.agent.loop import Loop
from fastmesh_control.ca import Authority

ID = "spiffe://cluster.local/ns/default/sa/reviews"


@pytest.fixture
def loop():
    errors: list[BaseException] = []
    made = Loop(errors.append)
    yield made
    assert errors == []


def run_until(loop, done, timeout=20.0):
    """Turn the loop until `done` holds."""
    deadline = time.monotonic() + timeout

    def look():
        if done() or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.call_later(0.01, look)

    look()
    loop.run()
    assert done()


def ask(loop, identity, **options):
    answers = []
    identity.request(lambda made, error: answers.append((made, error)), **options)
    run_until(loop, lambda: answers)
    return answers[0]


def install(identity, now=None, life=3600):
    now = int(time.time() if now is None else now)
    identity.install(b"key", b"chain", b"roots", now, now - 60, now + life)


def test_the_helper_makes_a_key_and_a_request_for_the_identity(loop, tmp_path):
    made, error = ask(loop, Identity(loop, str(tmp_path), ID), new_key=True)
    assert error == ""
    leaf = Authority(tmp_path, "cluster.local").sign(made["csr"], "default", "reviews", "reviews")
    key = serialization.load_pem_private_key(made["key"], None)
    assert x509.load_pem_x509_certificate(leaf.chain).public_key() == key.public_key()


def test_the_helper_signs_a_challenge_with_the_key_held(loop, tmp_path):
    identity, authority = Identity(loop, str(tmp_path), ID), Authority(tmp_path, "cluster.local")
    made, _ = ask(loop, identity, new_key=True)
    leaf = authority.sign(made["csr"], "default", "reviews", "reviews")
    identity.install(
        made["key"], leaf.chain, authority.roots_pem, leaf.issued, leaf.not_before, leaf.not_after
    )
    nonce = authority.nonce("k")
    made, _ = ask(loop, identity, new_key=True, nonce=nonce)
    who = authority.prove(identity.chain, nonce, made["signature"], "k", made["csr"])
    assert who.service == "reviews"


def test_a_helper_that_fails_says_why(loop, tmp_path, monkeypatch):
    identity = Identity(loop, str(tmp_path), ID)
    made, error = ask(loop, identity, new_key=False, nonce=b"x")  # there is no key to sign with
    assert made is None and error.startswith("the key helper failed: ")
    monkeypatch.setattr(certs.sys, "executable", "/nonexistent/python")
    made, error = ask(loop, identity, new_key=True)
    assert made is None and "cannot be started" in error


def test_a_helper_that_hangs_is_ended(loop, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    script.chmod(0o700)
    monkeypatch.setattr(certs.sys, "executable", str(script))
    monkeypatch.setattr(certs, "HELPER_SECONDS", 1.0)
    made, error = ask(loop, Identity(loop, str(tmp_path), ID), new_key=True)
    assert made is None and "did not answer" in error
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cancelled_helper_answers_nobody(loop, tmp_path):
    identity, answers = Identity(loop, str(tmp_path), ID), []
    identity.request(lambda *_: answers.append("first"), new_key=True)
    identity.request(lambda *_: answers.append("second"), new_key=True)
    run_until(loop, lambda: answers)
    assert answers == ["second"]
    identity.request(lambda *_: answers.append("third"), new_key=True)
    identity.close()
    assert answers == ["second"]


def test_an_identity_outlives_its_process(loop, tmp_path):
    first = Identity(loop, str(tmp_path), ID)
    install(first)
    assert first.persisted and (tmp_path / "identity").stat().st_mode & 0o777 == 0o600
    again = Identity(loop, str(tmp_path), ID)
    for name in certs._KEPT:
        assert getattr(again, name) == getattr(first, name), name
    assert again.has_cert and again.valid() and not again.valid(time.time() + 3600)
    again.set_roots(b"other roots")
    assert Identity(loop, str(tmp_path), ID).roots == b"other roots"
    assert [p.name for p in tmp_path.iterdir()] == ["identity"]


def test_another_workloads_identity_is_not_taken_up(loop, tmp_path):
    install(Identity(loop, str(tmp_path), ID + "x"))
    warnings = []
    identity = Identity(loop, str(tmp_path), ID)
    identity.on_warning = warnings.append
    run_until(loop, lambda: warnings)
    assert not identity.has_cert and "joining anew" in warnings[0]


@pytest.mark.parametrize("spoil", [lambda d: d[:-3], lambda d: b"", lambda d: b"\x80", lambda d: b"{}" + d])
def test_a_corrupt_identity_is_told_of_and_not_used(loop, tmp_path, spoil):
    install(Identity(loop, str(tmp_path), ID))
    (tmp_path / "identity").write_bytes(spoil((tmp_path / "identity").read_bytes()))
    warnings = []
    identity = Identity(loop, str(tmp_path), ID)
    identity.on_warning = warnings.append
    run_until(loop, lambda: warnings)
    assert not identity.has_cert and "cannot be used" in warnings[0]


def test_what_cannot_be_kept_is_served_and_kept_later(loop, tmp_path, monkeypatch):
    monkeypatch.setattr(certs, "PERSIST_RETRY", 0.05)
    warnings, changes = [], []
    identity = Identity(loop, str(tmp_path / "missing"), ID)
    identity.on_warning, identity.on_change = warnings.append, lambda: changes.append(identity.generation)
    install(identity)
    assert changes == [1] and identity.has_cert and not identity.persisted
    assert "cannot be kept" in warnings[0]
    (tmp_path / "missing").mkdir()
    run_until(loop, lambda: identity.persisted)
    assert Identity(loop, str(tmp_path / "missing"), ID).chain == b"chain"


def test_a_full_disk_leaves_the_old_file(loop, tmp_path, monkeypatch):
    identity = Identity(loop, str(tmp_path), ID)
    install(identity)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(certs.os, "fsync", full)
    identity.set_roots(b"newer")
    assert not identity.persisted and identity.roots == b"newer"
    assert Identity(loop, str(tmp_path), ID).roots == b"roots"
    assert [p.name for p in tmp_path.iterdir()] == ["identity"]


def test_renewal_is_due_around_half_of_the_life(loop, tmp_path):
    due, now = set(), int(time.time())
    for _ in range(200):
        identity = Identity(loop, "", ID)
        install(identity, now=now, life=86_400)
        due.add((identity.renew_at - now) / 86_400)
        identity.close()
    assert min(due) >= 0.45 and max(due) <= 0.55 and len(due) > 100
    identity = Identity(loop, "", ID)
    called = []
    identity.on_due = lambda: called.append(1)
    install(identity, now=time.time() - 50, life=60)
    run_until(loop, lambda: called)


def test_with_a_clock_far_ahead_certificates_are_not_asked_for_without_a_pause(loop):
    """What is issued seems old when it arrives: without a pause each would be renewed at once, for ever."""
    identity = Identity(loop, "", ID)
    install(identity, now=time.time() - 80_000, life=86_400)
    assert identity.renew_at >= time.time() + certs.RENEW_LEAST - 1
    identity.close()


def test_a_clock_that_is_set_makes_the_renewal_due(loop, monkeypatch):
    monkeypatch.setattr(certs, "CLOCK_SECONDS", 0.01)
    identity = Identity(loop, "", ID)
    called = []
    identity.on_due = lambda: called.append(1)
    install(identity, life=86_400)
    real = time.time
    monkeypatch.setattr(certs.time, "time", lambda: real() + 50_000)
    run_until(loop, lambda: called)
