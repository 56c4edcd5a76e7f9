"""From one signer to the next: the steps on disk, and whom they wait for."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from fastmesh.model.wire import TRUST
from fastmesh_control import keyring as module
from fastmesh_control.keyring import DISTRIBUTE, IDLE, REISSUE, Keyring
from fastmesh_control.rotation import SETTLE_SECONDS, NotNow, Rotation
from fastmesh_control.signer import make_root
from fastmesh_control.store import ProxyRow, StateError, Store

DOMAIN = "cluster.local"


@pytest.fixture
def ring(tmp_path):
    return Keyring(tmp_path, DOMAIN)


def seen(ring):
    """What a next start would find."""
    again = Keyring(ring._directory, DOMAIN)
    return (
        again.phase,
        again.active.id,
        again.coming and again.coming.id,
        [r.serial_number for r in again.roots()],
        [(p.id, bool(p.until)) for p in again.past],
        again.reissue,
    )


def held(ring):
    return (
        ring.phase,
        ring.active.id,
        ring.coming and ring.coming.id,
        [r.serial_number for r in ring.roots()],
        [(p.id, bool(p.until)) for p in ring.past],
        ring.reissue,
    )


def test_all_steps_are_kept(ring):
    old, new = ring.active, make_root(DOMAIN)
    assert held(ring) == seen(ring) == (IDLE, old.id, None, [old.root.serial_number], [], 0)
    ring.begin(new)
    both = [old.root.serial_number, new.root.serial_number]
    assert held(ring) == seen(ring) == (DISTRIBUTE, old.id, new.id, both, [], 0)
    ring.switch()
    assert held(ring) == seen(ring)
    assert held(ring)[:5] == (REISSUE, new.id, None, both[::-1], [(old.id, False)])
    assert ring.reissue > time.time()
    ring.finish()
    assert held(ring) == seen(ring)
    assert held(ring)[:5] == (IDLE, new.id, None, [new.root.serial_number], [(old.id, True)])
    assert ring.issuers() == [new.cert, old.cert]
    ring.forget(time.time())
    assert ring.past
    ring.forget(time.time() + module.PROVES_SECONDS + 1)
    assert not ring.past and seen(ring) == held(ring)


def test_what_is_cancelled_leaves_nothing(ring):
    before = held(ring)
    ring.begin(make_root(DOMAIN))
    ring.begin(make_root(DOMAIN))
    ring.cancel()
    assert held(ring) == seen(ring) == before
    assert not list(ring._directory.glob("ca.next*"))


def crashing(monkeypatch, ring, step):
    """Cut a step off before each of its writes; the states that a next start finds."""
    found = []
    real, left = module.write_secret, 0

    def write(path, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise StateError("cut")
        real(path, data)

    for cut in range(12):
        left = cut
        files = {p: p.read_bytes() for p in ring._directory.iterdir()}
        kept, active, coming = ring._kept, ring.active, ring.coming
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_secret", write)
            try:
                step()
                return found
            except StateError:
                pass
        found.append(seen(ring))
        for p in ring._directory.iterdir():
            if p not in files:
                p.unlink()
        for p, data in files.items():
            p.write_bytes(data)
        ring._kept, ring.active, ring.coming = kept, active, coming
    raise AssertionError("it never ends")


def test_a_crash_in_a_step_is_before_it_or_after_it(monkeypatch, ring):
    before, new = seen(ring), make_root(DOMAIN)
    cut = crashing(monkeypatch, ring, lambda: ring.begin(new))
    assert cut and set(map(str, cut)) == {str(before)}
    before = seen(ring)
    cut = crashing(monkeypatch, ring, ring.switch)
    after = seen(ring)
    # `reissue` is the time of the step, which is taken several times here
    assert str(cut[0]) == str(before) and len(cut) > 1
    assert {str(c[:5]) for c in cut[1:]} == {str(after[:5])}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"phase": "x", "since": 0, "reissue": 0, "past": []}', "\0"]
)
def test_a_rotation_that_cannot_be_read_is_told(ring, text):
    (ring._directory / "ca.rotation").write_text(text)
    with pytest.raises(StateError, match=r"ca\.rotation cannot be read"):
        seen(ring)


# -- whom a step waits for


@pytest.fixture
def mesh(tmp_path, ring):
    store = Store(tmp_path / "mesh.db")
    published = []
    registry = SimpleNamespace(by_instance={})
    rotation = Rotation(ring, store, registry, DOMAIN)
    rotation.connect(lambda: published.append(rotation.trust()), lambda: len(published))
    yield SimpleNamespace(
        store=store, ring=ring, rotation=rotation, registry=registry, published=published, clock=time.time()
    )
    store.close()


def joined(mesh, name, expires=3600.0, issuer=None):
    issuer = mesh.ring.active.id if issuer is None else issuer
    row = ProxyRow(name, "key", "default", "web", "web", name, time.time() + expires, 0.0, issuer)
    mesh.store.proxy_put(row)


def connected(mesh, name, version=0, settled=True):
    session = SimpleNamespace(
        applied={TRUST: version}, settled=lambda before: settled, name=name, cert_expires=0.0
    )
    mesh.registry.by_instance[name] = session
    return session


def tick(mesh):
    mesh.clock += 100
    mesh.rotation.tick(mesh.clock)


def names(mesh):
    return [w.name for w in mesh.rotation.waiting(time.time())]


def test_a_step_waits_for_whoever_it_would_cut_off(mesh):
    old = mesh.ring.active
    for name in ("a", "b", "gone"):
        joined(mesh, name)
    joined(mesh, "expired", -10)
    joined(mesh, "unknown", 3600, issuer="")
    a, b = connected(mesh, "a"), connected(mesh, "b")
    mesh.rotation.begin()
    assert len(mesh.published) == 1 and mesh.published[0]["roots"].count(b"BEGIN") == 2
    assert "reissue" not in mesh.published[0]
    a.applied[TRUST] = 1
    tick(mesh)
    assert mesh.ring.phase == DISTRIBUTE
    assert names(mesh) == ["web-b.default", "web-gone.default", "web-unknown.default"]
    for name in ("gone", "unknown"):
        connected(mesh, name, 1)
    b.applied[TRUST] = 5
    tick(mesh)
    assert mesh.ring.phase == REISSUE and mesh.ring.active.id != old.id
    assert mesh.published[-1]["reissue"] == mesh.ring.reissue
    assert names(mesh) == ["web-a.default", "web-b.default", "web-gone.default", "web-unknown.default"]
    for name in ("a", "b", "gone", "unknown"):
        joined(mesh, name)
    tick(mesh)
    assert mesh.ring.phase == IDLE
    assert mesh.published[-1]["roots"].count(b"BEGIN") == 1


def test_the_end_waits_until_workers_serve_what_they_were_given(mesh):
    mesh.rotation.begin()
    tick(mesh)
    assert mesh.ring.phase == REISSUE
    joined(mesh, "a")
    connected(mesh, "a", settled=False)
    tick(mesh)
    assert mesh.ring.phase == REISSUE and names(mesh) == ["a"]
    connected(mesh, "a")
    tick(mesh)
    assert mesh.ring.phase == IDLE


def test_force_and_refusals(mesh):
    with pytest.raises(NotNow, match="no rotation"):
        mesh.rotation.proceed(True)
    with pytest.raises(NotNow, match="no rotation"):
        mesh.rotation.cancel()
    with pytest.raises(NotNow, match="signs already"):
        mesh.rotation.begin(mesh.ring.active)
    joined(mesh, "away")
    mesh.rotation.begin()
    with pytest.raises(NotNow, match=r"cut off 1 workloads: web-away\.default"):
        mesh.rotation.proceed(False)
    mesh.rotation.proceed(True)
    assert mesh.ring.phase == REISSUE
    with pytest.raises(NotNow, match="under way"):
        mesh.rotation.begin()
    with pytest.raises(NotNow, match="signs already"):
        mesh.rotation.cancel()
    mesh.rotation.proceed(True)
    assert mesh.ring.phase == IDLE


def test_a_root_of_our_own_is_followed_by_the_next_in_time(mesh, monkeypatch):
    active = mesh.ring.active
    begin, end = active.cert.not_valid_before_utc.timestamp(), active.expires.timestamp()
    mesh.rotation.tick(begin + 0.79 * (end - begin))
    assert mesh.ring.phase == IDLE
    assert mesh.rotation.warnings(end - 86400) == [
        "the signing certificate expires in 1.0 days: `fastmesh ca rotate`"
    ]
    assert "has expired" in mesh.rotation.warnings(end + 1)[0]
    mesh.rotation.tick(begin + 0.81 * (end - begin))
    assert mesh.ring.phase == DISTRIBUTE


def test_denied_identities_are_published(mesh):
    ident = "spiffe://cluster.local/ns/default/sa/web"
    mesh.rotation.deny(ident, "stolen")
    assert mesh.published[-1]["denied"] == [ident]
    again = Rotation(mesh.ring, mesh.store, mesh.registry, DOMAIN)
    assert again.denied[ident][1] == "stolen"
    assert mesh.rotation.allow(ident) and not mesh.rotation.allow(ident)
    assert "denied" not in mesh.published[-1]


def test_settling():
    from fastmesh_control.registry import Session

    s = Session(b"", "", "i", "b", "n", "s", "a", "id", {}, (), 0.0, 0.0, 0.0, status={"generation": 3})
    assert s.settled(0)
    s.renewing(100.0)
    assert not s.settled(100.0 + SETTLE_SECONDS)
    s.status["generation"] = 4
    assert not s.settled(99.0)
    assert s.settled(100.0)
