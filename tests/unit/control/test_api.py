"""The HTTP API over a real mesh and store, without sockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from fastmesh.model.bundle import check_bundle
from fastmesh_control import api as module
from fastmesh_control.ca import Authority
from fastmesh_control.mesh import Mesh
from fastmesh_control.metrics import Metrics
from fastmesh_control.registry import Registry
from fastmesh_control.rotation import Rotation
from fastmesh_control.store import StateError, Store
from fastmesh_control.tokens import TokenError, Where, check
from fastmesh_control.topics import Compiler

TOKEN = "secret"
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, uid: x, annotations: {a: b}}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
"""


@pytest.fixture
def parts(tmp_path):
    store = Store(tmp_path / "mesh.db")
    authority, registry = Authority(tmp_path, "cluster.local"), Registry()
    rotation = Rotation(authority.keyring, store, registry, "cluster.local")
    mesh = Mesh(store, Compiler("cluster.local", rotation.trust))
    rotation.connect(mesh.refresh, lambda: mesh.topics["trust"].version)
    server = SimpleNamespace(registry=registry)
    where = Where("tcp://h:1", "tcp://h:2", "k" * 40, "cluster.local")
    app = module.Api(store, mesh, server, authority, rotation, where, Metrics(), TOKEN).app
    yield SimpleNamespace(store=store, mesh=mesh, app=app)
    store.close()


@pytest.fixture
def call(parts):
    def ask(method, path, token=TOKEN, **options):
        async def once():
            transport = httpx.ASGITransport(parts.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(once())

    return ask


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", "Bearer " + TOKEN])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/apply"),
        ("GET", "/v1/resources/vs"),
        ("GET", "/v1/wait"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/proxies"),
        ("DELETE", "/v1/proxies/x"),
    ],
)
def test_nothing_without_the_token(call, method, path, token):
    answer = call(method, path, token)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_health_and_metrics_are_open(call):
    assert call("GET", "/healthz", "").json()["status"] == "ok"
    assert "fastmesh_control_requests_total" in call("GET", "/metrics", "").text


def test_apply_get_delete(call):
    done = call("POST", "/v1/apply", content=RULE.replace("NAME", "one")).json()
    expected = {"kind": "VirtualService", "namespace": "default", "name": "one", "action": "created"}
    assert done["objects"] == [expected]
    shown = call("GET", "/v1/resources/VirtualServices/default/one").json()
    assert shown["metadata"]["annotations"] == {"a": "b"} and "uid" not in shown["metadata"]
    assert shown["spec"]["hosts"] == ["reviews"]
    # What is shown can be applied as it is.
    assert call("POST", "/v1/apply", json=shown).json()["objects"][0]["action"] == "unchanged"
    assert len(call("GET", "/v1/resources/vs?namespace=default").json()["items"]) == 1
    assert call("GET", "/v1/resources/vs?namespace=other").json()["items"] == []
    assert call("DELETE", "/v1/resources/vs/default/one").json()["objects"][0]["action"] == "deleted"
    assert call("DELETE", "/v1/resources/vs/default/one").status_code == 404
    assert call("GET", "/v1/resources/nonsense").status_code == 404


def test_one_bad_object_refuses_all_and_every_fault_is_told(call, parts):
    body = RULE.replace("NAME", "good") + "---" + RULE.replace("NAME", "bad").replace("hosts", "hostz")
    answer = call("POST", "/v1/apply?name=mesh.yaml", content=body)
    assert answer.status_code == 422
    problems = answer.json()["problems"]
    assert any(
        p["path"] == "spec.hostz" and p["file"] == "mesh.yaml" and p["name"] == "bad" for p in problems
    )
    assert not parts.mesh.state.resources


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 422),
        (b"{", 422),
        (b"- a\n- b", 422),
        ((RULE + "---" + RULE).replace("NAME", "same").encode(), 422),
        (b"kind: EnvoyFilter\napiVersion: networking.istio.io/v1\nmetadata: {name: x}\nspec: {}", 422),
    ],
)
def test_bodies_that_are_no_config(call, parts, body, status):
    answer = call("POST", "/v1/apply", content=body)
    assert answer.status_code == status and answer.json()["error"]
    assert not parts.mesh.state.resources


def test_files_keep_their_names(call):
    files = [{"name": "a.yaml", "text": RULE.replace("NAME", "a")}, {"name": "b.yaml", "text": "spec: ["}]
    answer = call("POST", "/v1/apply", json={"files": files})
    assert answer.status_code == 422 and {p["file"] for p in answer.json()["problems"]} == {"b.yaml"}
    assert call("POST", "/v1/apply", json={"files": [1]}).status_code == 400


def test_a_body_without_end_is_cut_off(call, monkeypatch):
    monkeypatch.setattr(module, "MAX_BODY", 1000)
    assert call("POST", "/v1/apply", content=b"#" * 1001).status_code == 413


@pytest.mark.parametrize(("full", "status"), [(True, 507), (False, 500)])
def test_what_cannot_be_written_says_so(call, parts, monkeypatch, full, status):
    def fails(*args, **kwargs):
        raise StateError("the disk", full)

    monkeypatch.setattr(parts.store, "commit", fails)
    answer = call("POST", "/v1/apply", content=RULE.replace("NAME", "one"))
    assert answer.status_code == status and "nothing was changed: the disk" in answer.json()["error"]
    assert not parts.mesh.state.resources
    monkeypatch.undo()
    assert call("POST", "/v1/apply", content=RULE.replace("NAME", "one")).status_code == 200


def test_a_join_bundle_is_whole_and_its_secret_is_not_kept(call, parts):
    answer = call("POST", "/v1/tokens", json={"service": "reviews", "ttl": 60})
    assert answer.status_code == 201
    bundle = answer.json()
    assert check_bundle(bundle) == ""
    assert bundle["spiffe_id"] == "spiffe://cluster.local/ns/default/sa/reviews"
    held = check(parts.store, bundle["token"])
    assert (held.namespace, held.service, held.service_account) == ("default", "reviews", "reviews")
    secret = bundle["token"].partition(".")[2]
    dump = "\n".join(parts.store._db.iterdump())
    assert held.id in dump and secret not in dump
    assert secret not in call("GET", "/v1/tokens").text
    with pytest.raises(TokenError, match="expired"):
        check(parts.store, bundle["token"], held.expires)
    assert call("DELETE", f"/v1/tokens/{held.id}").status_code == 200
    with pytest.raises(TokenError, match="unknown"):
        check(parts.store, bundle["token"])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"service": "Reviews"},
        {"service": "a" * 64},
        {"service": "a.b"},
        {"service": "a", "namespace": "b/c"},
        {"service": "a", "service_account": "b/../c"},
        {"service": "a", "ttl": 0},
        {"service": "a", "ttl": 1e12},
        {"service": "a", "ttl": True},
        {"service": 5},
        {"service": "a", "other": 1},
        [],
    ],
)
def test_tokens_for_impossible_names_are_refused(call, parts, asked):
    answer = call("POST", "/v1/tokens", json=asked)
    assert answer.status_code == 400 and answer.json()["error"]
    assert parts.store.tokens() == []


@pytest.mark.parametrize("query", ["version=x", "version=-1", "timeout=nan", "timeout=inf"])
def test_waits_without_sense_are_refused(call, query):
    assert call("GET", f"/v1/wait?{query}").status_code == 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"server_key": "short"}, "CURVE"),
        ({"control": "http://x"}, "tcp"),
        ({"spiffe_id": ""}, "spiffe_id"),
        ({"namespace": None}, "namespace"),
    ],
)
def test_bundles_that_cannot_be_used(call, change, says):
    bundle = call("POST", "/v1/tokens", json={"service": "reviews"}).json()
    assert says in check_bundle({**bundle, **change})
    assert check_bundle([]) and check_bundle({})
