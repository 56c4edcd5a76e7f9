"""Desired state: versions, all-or-nothing, restarts, full disks."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from fastmesh.model import wire
from fastmesh.model.problems import ConfigError
from fastmesh_control.mesh import MAX_PORTS, Mesh
from fastmesh_control.store import EndpointRow, StateError, Store, check_directory
from fastmesh_control.topics import Compiler

REVIEWS = "svc/reviews.default.svc.cluster.local"


def compiler():
    return Compiler("cluster.local", lambda: {"roots": b"roots"})


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "mesh.db")
    yield store
    store.close()


@pytest.fixture
def mesh(store):
    return Mesh(store, compiler())


def endpoint(instance="i1", port=15006, version="v1"):
    identity = "spiffe://cluster.local/ns/default/sa/reviews"
    return EndpointRow(
        instance, "default", "reviews", identity, "127.0.0.1", port, 9080, {"version": version}
    )


def rule(name="reviews", timeout="1s", host="reviews", subset=None):
    destination = {"host": host, **({"subset": subset} if subset else {})}
    return ("VirtualService", "default", name), {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"hosts": [host], "http": [{"timeout": timeout, "route": [{"destination": destination}]}]},
    }


def serve(mesh, *rows):
    for row in rows:
        mesh.service_known(row.namespace, row.service, row.app_port)
        mesh.endpoint_up(row)


def addresses(mesh, topic=REVIEWS):
    content = wire.unpack_payload(mesh.topics[topic].payload)
    return {(e["address"], e["port"]) for c in content["clusters"] for e in c["endpoints"]}


def test_each_change_gives_the_topics_that_it_alters_its_number(mesh):
    published = []
    mesh.on_update = published.extend
    serve(mesh, endpoint())
    assert addresses(mesh) == {("127.0.0.1", 15006)}
    before = mesh.topics[REVIEWS].version
    done = mesh.apply([rule()])
    assert done.topics == {REVIEWS: mesh.version} and done.actions[0][1] == "created"
    assert published[-1].prev == before and published[-1].version == mesh.version
    assert mesh.apply([rule()]).actions[0][1] == "unchanged" and published[-1].version == mesh.version
    assert mesh.apply([rule(timeout="2s")]).actions[0][1] == "configured"


def test_a_service_stays_when_its_last_endpoint_goes(mesh):
    serve(mesh, endpoint())
    mesh.endpoints_down(["i1", "unknown"])
    assert REVIEWS in mesh.topics and addresses(mesh) == set()
    assert mesh.service_delete("default", "reviews") is True
    assert REVIEWS not in mesh.topics
    assert mesh.service_delete("default", "reviews") is None


def test_a_service_with_endpoints_is_not_deleted(mesh):
    serve(mesh, endpoint())
    assert mesh.service_delete("default", "reviews") is False


def test_a_restart_keeps_versions_and_a_lost_file_begins_an_epoch(store, mesh, tmp_path):
    serve(mesh, endpoint())
    mesh.apply([rule()])
    again = Mesh(Store(tmp_path / "mesh.db"), compiler())
    assert (again.epoch, again.version, again.topics.keys()) == (mesh.epoch, mesh.version, mesh.topics.keys())
    assert {t: h.version for t, h in again.topics.items()} == {t: h.version for t, h in mesh.topics.items()}
    assert again.digest(("svc/",)) == mesh.digest(("svc/",))
    assert Mesh(Store(tmp_path / "new.db"), compiler()).epoch != mesh.epoch


def test_all_or_nothing_when_the_disk_is_full(store, mesh):
    serve(mesh, endpoint())
    mesh.apply([rule()])
    version, topics, state = mesh.version, dict(mesh.topics), mesh.state
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    many = [rule(f"r{n}", host=f"host{n}.example.com") for n in range(500)]
    with pytest.raises(StateError) as failed:
        mesh.apply(many)
    assert failed.value.full
    assert (mesh.version, mesh.topics, mesh.state) == (version, topics, state)
    assert len(store.resources()) == 1
    store._db.execute("PRAGMA max_page_count=1000000")
    assert len(mesh.apply(many).actions) == 500


def test_endpoints_are_taken_up_even_if_they_cannot_be_written(store, mesh, monkeypatch):
    def full(*args, **kwargs):
        raise StateError("no space", full=True)

    monkeypatch.setattr(store, "commit", full)
    serve(mesh, endpoint())
    assert addresses(mesh) == {("127.0.0.1", 15006)} and mesh.write_failures == 2


def test_errors_between_objects_refuse_the_apply_that_brings_them(mesh):
    serve(mesh, endpoint())
    version = mesh.version
    bad = (
        ("VirtualService", "default", "bad"),
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "bad", "namespace": "default"},
            "spec": {
                "hosts": ["reviews"],
                "http": [{"route": [{"destination": {"host": "reviews", "subset": "v9"}}]}],
            },
        },
    )
    rules = (
        ("DestinationRule", "default", "reviews"),
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "reviews", "namespace": "default"},
            "spec": {"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]},
        },
    )
    with pytest.raises(ConfigError, match="v9"):
        mesh.apply([rule("good", host="ok.example.com"), bad, rules])
    assert mesh.version == version and not mesh.state.resources


def test_a_dry_run_changes_nothing(store, mesh):
    version = mesh.version
    assert mesh.apply([rule()], dry_run=True).actions[0][1] == "created"
    assert mesh.version == version and not mesh.state.resources and not store.resources()


def test_what_a_proxy_has_yet_to_serve(mesh):
    serve(mesh, endpoint())
    first = mesh.apply([rule()]).version
    second = mesh.apply([rule(timeout="2s")]).version
    patterns = ("svc/",)
    assert mesh.late(patterns, {}, second) == [REVIEWS]
    assert mesh.late(patterns, {REVIEWS: first}, first) == []
    assert mesh.late(patterns, {REVIEWS: first}, second) == [REVIEWS]
    assert mesh.late(patterns, {REVIEWS: second, "svc/gone": 1}, second) == ["svc/gone"]
    assert mesh.late(("ns/default",), {"ns/default": 99}, second) == []


def test_what_differs_is_told_and_nothing_else(mesh):
    serve(mesh, endpoint())
    held = mesh.topics[REVIEWS]
    patterns = ("svc/",)
    assert mesh.differing(patterns, {REVIEWS: [held.version, held.crc]}, None) == ([], [])
    assert mesh.differing(patterns, {REVIEWS: [held.version, held.crc + 1]}, None) == ([REVIEWS], [])
    assert mesh.differing(patterns, {"svc/gone": [1, 1]}, None) == ([REVIEWS], ["svc/gone"])
    assert mesh.differing(patterns, {}, ["svc/gone"]) == ([], ["svc/gone"])
    assert mesh.differing(patterns, {"trust": [1, 1]}, None)[1] == ["trust"], "not subscribed any more"


def test_state_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "mesh.db"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.commit()
    with pytest.raises(StateError, match="schema 99"):
        Store(path)


def test_a_directory_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        check_directory(tmp_path / "file/state")
    check_directory(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []


def test_the_ports_of_a_service_are_bounded(mesh, store):
    """Those of no live endpoint make room; where all are in use no more are taken."""
    for port in range(1, MAX_PORTS + 1):
        assert mesh.service_known("default", "reviews", port)
    mesh.endpoint_up(endpoint())
    assert mesh.service_known("default", "reviews", 7000)
    assert mesh.state.services["default", "reviews"] == [7000, 9080] == store.services()["default", "reviews"]
    for n in range(MAX_PORTS):
        row = dataclasses.replace(endpoint(f"n{n}", 20000 + n), app_port=100 + n)
        mesh.service_known("default", "reviews", row.app_port)
        mesh.endpoint_up(row)
    before = mesh.state.services["default", "reviews"]
    assert len(before) == MAX_PORTS
    assert not mesh.service_known("default", "reviews", 8000)
    assert mesh.state.services["default", "reviews"] == before
