"""What goes wrong with a control plane: it dies, loses its state, cannot write it, is asked by strangers."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from helpers import wait_for
from integration.controlplane import ControlPlane, TestAgent
from integration.test_control_plane import REVIEWS, split


@pytest.fixture
def plane(spawn, tmp_path):
    return ControlPlane(spawn, tmp_path)


def synced(plane: ControlPlane, agent: TestAgent) -> bool:
    proxy = plane.proxies().get(agent.instance)
    return proxy is not None and proxy["ready"] and not proxy["late"]


def test_a_restart_on_the_same_state_repeats_nothing(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    done = plane.apply(split(95))
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    before = agent.config(lambda e: e["versions"].get(REVIEWS, 0) >= done["version"])
    plane.kill()
    agent.warned("closed the connection")
    plane.start()
    wait_for(lambda: synced(plane, agent), what="the sidecar back in step")
    assert plane.endpoints("reviews") == {16001}
    assert agent.config() == before, "it was given nothing, as it had it all"
    assert plane.ok("GET", "/healthz")["epoch"] == before["epoch"]
    # And what is changed then arrives.
    done = plane.apply(split(50))
    assert plane.ok("GET", f"/v1/wait?version={done['version']}&timeout=20")["done"]
    assert len(agent.events("identity")) == 1


def test_a_sidecar_restarts_from_what_it_kept_while_the_control_plane_is_away(spawn, plane, tmp_path):
    bundle = plane.bundle("reviews")
    agent = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    wait_for(lambda: (tmp_path / "a/topics").exists() and synced(plane, agent), what="the copy on disk")
    kept = agent.config()
    wait_for(lambda: kept == agent.config() and (tmp_path / "a/topics").exists())
    plane.kill()
    agent.process.kill()
    again = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    told = again.config()
    assert told["source"] == "disk" and told["endpoints"] == kept["endpoints"]
    again.warned("cannot be reached")
    assert again.process.alive
    plane.start()
    wait_for(lambda: synced(plane, again), what="its return")


def test_a_corrupt_copy_is_told_of_and_fetched_anew(spawn, plane, tmp_path):
    bundle = plane.bundle("reviews")
    agent = TestAgent(spawn, bundle, tmp_path / "a")
    copy = tmp_path / "a/topics"
    wait_for(lambda: copy.exists() and synced(plane, agent), what="the copy on disk")
    agent.process.kill()
    copy.write_bytes(copy.read_bytes()[:-7] + b"garbage")
    (tmp_path / "a/identity").write_bytes(b"\x00garbage")
    again = TestAgent(spawn, bundle, tmp_path / "a")
    again.warned("topics cannot be used")
    again.warned("identity cannot be used")
    assert again.config()["source"] == "control"
    assert again.wait("identity")["persisted"]


def test_lost_state_is_a_new_epoch_and_sidecars_prove_who_they_are(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    plane.apply(split(95))
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    before = agent.config()
    plane.kill()
    for file in plane.state.glob("mesh.db*"):
        file.unlink()
    plane.start()
    now = agent.config(lambda e: e["epoch"] != before["epoch"])
    assert now["versions"][REVIEWS] < before["versions"][REVIEWS]
    wait_for(lambda: synced(plane, agent) and plane.endpoints("reviews") == {16001}, what="the endpoint")
    assert len(agent.events("identity")) == 1, "the certificate was proof enough"


def test_another_control_plane_at_the_address_is_not_believed(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    before = agent.config()
    plane.kill()
    shutil.rmtree(plane.state)
    plane.start()
    agent.warned("refused the encrypted handshake")
    assert agent.config() == before and agent.process.alive


@pytest.mark.parametrize("spoil", ["wrong", "unknown"])
def test_a_wrong_token_ends_a_sidecar_that_has_nothing_to_serve(spawn, plane, tmp_path, spoil):
    path = plane.bundle("reviews")
    bundle = json.loads(path.read_text())
    ident, _, secret = bundle["token"].partition(".")
    bundle["token"] = f"{ident}.{secret[::-1]}" if spoil == "wrong" else f"fmj_000000000000.{secret}"
    path.write_text(json.dumps(bundle))
    agent = TestAgent(spawn, path, tmp_path / "a")
    assert agent.process.wait() == 5
    (fatal,) = agent.events("fatal")
    assert fatal["code"] == "bad_token" and "fastmesh token create" in fatal["message"]
    assert plane.proxies() == {} and plane.metric("fastmesh_control_certificates_issued_total") == 0


def test_an_expired_token_is_told_apart(spawn, plane, tmp_path):
    path = plane.bundle("reviews", ttl=1)
    wait_for(lambda: plane.ok("GET", "/v1/tokens")["items"][0]["expired"], what="its end")
    agent = TestAgent(spawn, path, tmp_path / "a")
    assert agent.process.wait() == 5
    assert agent.events("fatal")[0]["code"] == "expired_token"


def test_a_removed_token_does_not_end_who_has_joined_with_it(spawn, plane, tmp_path):
    path = plane.bundle("reviews")
    agent = TestAgent(spawn, path, tmp_path / "a")
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    (token,) = plane.ok("GET", "/v1/tokens")["items"]
    assert token["used"] == 1
    plane.ok("DELETE", f"/v1/tokens/{token['id']}")
    agent.process.kill()
    again = TestAgent(spawn, path, tmp_path / "a")
    wait_for(lambda: synced(plane, again), what="its return")


def test_a_removed_proxy_has_to_join_anew(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    (token,) = plane.ok("GET", "/v1/tokens")["items"]
    plane.ok("DELETE", f"/v1/tokens/{token['id']}")
    plane.ok("DELETE", f"/v1/proxies/{agent.instance}")
    agent.warned("bad_token")
    assert plane.proxies() == {} and plane.endpoints("reviews") == set()
    assert agent.process.alive, "it has something to serve"


def test_two_sidecars_with_one_identity_are_replicas(spawn, plane, tmp_path):
    bundle = plane.bundle("reviews")
    first = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    second = TestAgent(spawn, bundle, tmp_path / "b", port=16002)
    wait_for(lambda: plane.endpoints("reviews") == {16001, 16002}, what="both endpoints")
    assert first.instance != second.instance
    assert plane.metric("fastmesh_control_superseded") == 0


def test_of_two_with_one_instance_id_the_newer_wins(spawn, tmp_path):
    plane = ControlPlane(spawn, tmp_path, "--lease", "1.5")
    bundle = plane.bundle("reviews")
    older = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    wait_for(lambda: synced(plane, older), what="the older")
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*.tmp"))
    newer = TestAgent(spawn, bundle, tmp_path / "b", port=16002)
    older.warned("a newer process uses this instance id")
    wait_for(lambda: plane.endpoints("reviews") == {16002}, what="the newer's endpoint")
    # The older asks again from time to time, and yields.
    older.warned("another process still uses this instance id")
    assert plane.endpoints("reviews") == {16002}
    assert plane.metric("fastmesh_control_superseded") == 1
    newer.process.kill()
    wait_for(lambda: plane.endpoints("reviews") == {16001}, 20, "the older in its place")


def test_an_unwritable_state_directory_is_refused_at_start(spawn, tmp_path):
    (tmp_path / "file").write_text("")
    process = spawn(["fastmesh", "control", "--state", tmp_path / "file/state"], name="refused")
    assert process.wait() == 1
    assert "state directory" in process.stderr and "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr


def test_one_state_serves_one_control_plane(spawn, plane):
    with pytest.raises(AssertionError, match="ended with 1"):
        ControlPlane.start(plane)
    assert "another control plane uses" in plane.process.stderr


def test_a_corrupt_database_is_told_of(spawn, plane, tmp_path):
    plane.kill()
    for file in plane.state.glob("mesh.db-*"):
        file.unlink()  # else SQLite repairs the file from its log
    (plane.state / "mesh.db").write_bytes(b"not a database" * 1000)
    process = spawn(["fastmesh", "control", "--state", plane.state], name="refused")
    assert process.wait() == 1
    assert "mesh.db cannot be opened" in process.stderr and "Traceback" not in process.stderr


def test_what_cannot_be_written_is_not_applied(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    plane.apply(split(95))
    wait_for(lambda: synced(plane, agent), what="the sidecar in step")
    version = plane.ok("GET", "/healthz")["version"]
    other = plane.database()
    other.isolation_level = None
    other.execute("BEGIN EXCLUSIVE")
    status, answer = plane.call("POST", "/v1/apply", split(5).encode())
    assert status == 500 and "nothing was changed" in answer["error"]
    assert plane.ok("GET", "/healthz")["version"] == version
    assert plane.ok("GET", "/v1/resources/vs/default/reviews")["spec"]["http"][0]["route"][0]["weight"] == 95
    # Endpoints come and go all the same.
    agent.process.signal(signal.SIGTERM)
    agent.wait("gone")
    assert plane.endpoints("reviews") == set()
    other.execute("ROLLBACK")
    assert plane.apply(split(5))["objects"][0]["action"] == "configured"
