"""agent/assemble.py: a sidecar's config from fragments, packed as the agent packs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from shim.shm_shim import Frozen

from fastmesh.agent.assemble import CLIENT, SERVER, Problem, assemble, identity_contexts, read_pem
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack

SPEC: Any = {
    "bundle": {}, "service": "web", "namespace": "default", "version": "v1", "app": ("127.0.0.1", 9080),
    "app_protocol": "",
    "inbound": ("0.0.0.0", 15006), "address": "",
    "outbound": ("127.0.0.1", 15001),
    "locality": "",
}  # fmt: skip


def cluster(host: str, address: str, **more: Any) -> Any:
    endpoints = [{"address": address, "port": 80}]
    return {"name": f"outbound|80||{host}", "service": host, "endpoints": endpoints, **more}


def fragment(host: str, *clusters: Any, domains: list[str] | None = None, **more: Any) -> Any:
    vhost = {
        "name": f"{host}:80",
        "domains": domains or [host],
        "routes": [{"dests": [{"cluster": clusters[0]["name"], "weight": 1}]}],
        **more,
    }
    return {"host": host, "virtual_hosts": [vhost], "clusters": list(clusters), "tls": [], "needs": []}


@pytest.fixture(scope="module")
def identity() -> Any:
    return identity_contexts(b"key", b"chain", b"roots", "cluster.local")


def test_the_sidecars_own_side(identity: Any) -> None:
    config, problems = assemble("n", SPEC, "strict", {}, identity)
    assert problems == {}
    inbound, outbound = config["listeners"]
    assert (inbound["address"], inbound["port"], inbound["tls_mode"], inbound["tls"]) == (
        "0.0.0.0", 15006, "strict", [SERVER],
    )  # fmt: skip
    assert "tls_mode" not in outbound
    assert config["clusters"][0]["endpoints"] == [{"address": "127.0.0.1", "port": 9080}]
    assert {t["name"]: t["server"] for t in config["tls"]} == {CLIENT: False, SERVER: True}
    for context in config["tls"]:
        assert context["verify"] and context["trust_domain"] == "cluster.local"
        assert context["alpn"] == ["fastmesh", "h2", "http/1.1"]
    pack(config, CellMap())


@pytest.mark.parametrize(
    ("said", "protocol"), [("", "as_client"), ("HTTP", "http1"), ("HTTP2", "h2"), ("GRPC", "h2")]
)
def test_the_application_is_spoken_to_as_it_says(identity: Any, said: str, protocol: str) -> None:
    config, _ = assemble("n", {**SPEC, "app_protocol": said}, "strict", {}, identity)
    assert config["clusters"][0]["protocol"] == protocol
    frozen = Frozen(pack(config, CellMap()))
    assert frozen.check() is None
    made = frozen.upstream("inbound|9080||")
    assert (made["h2"], made["as_client"]) == (protocol == "h2", protocol == "as_client")


@pytest.mark.parametrize(
    ("mode", "expected"), [("permissive", "permissive"), ("disable", None), ("strict", "strict")]
)
def test_modes_of_the_inbound_listener(identity: Any, mode: str, expected: str | None) -> None:
    config, _ = assemble("n", SPEC, mode, {}, identity)
    assert config["listeners"][0].get("tls_mode") == expected
    pack(config, CellMap())


def test_bare_names_are_for_clients_of_the_same_namespace(identity: Any) -> None:
    near = fragment(
        "a.default.svc.cluster.local",
        cluster("a.default.svc.cluster.local", "10.0.0.1"),
        local_domains=["a"],
        namespace="default",
    )
    far = fragment(
        "a.other.svc.cluster.local",
        cluster("a.other.svc.cluster.local", "10.0.0.2"),
        local_domains=["a"],
        namespace="other",
    )
    config, _ = assemble("n", SPEC, "strict", {"svc/far": far, "svc/near": near}, identity)
    hosts = {tuple(v["domains"]) for v in config["tables"][1]["virtual_hosts"]}
    assert hosts == {("a.default.svc.cluster.local", "a"), ("a.other.svc.cluster.local",)}
    pack(config, CellMap())


def test_of_two_versions_of_a_cluster_the_services_own_counts(identity: Any) -> None:
    old, new = cluster("b", "10.0.0.1"), cluster("b", "10.0.0.2")
    for topics in (("svc/a", "svc/b"), ("svc/z", "svc/b")):
        fragments = {topics[0]: fragment("a", cluster("a", "10.0.0.9"), old), topics[1]: fragment("b", new)}
        config, _ = assemble("n", SPEC, "strict", fragments, identity)
        (found,) = [c for c in config["clusters"] if c["name"] == "outbound|80||b"]
        assert found["endpoints"][0]["address"] == "10.0.0.2"


def test_a_domain_belongs_to_one_host(identity: Any) -> None:
    fragments = {
        "svc/a": fragment("a", cluster("a", "10.0.0.1"), domains=["a", "both"]),
        "svc/b": fragment("b", cluster("b", "10.0.0.2"), domains=["both"]),
    }
    config, _ = assemble("n", SPEC, "strict", fragments, identity)
    assert [v["domains"] for v in config["tables"][1]["virtual_hosts"]] == [["a", "both"]]
    pack(config, CellMap())


def test_files_of_a_destination_rule_are_read_here(identity: Any, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    made = fragment("a", cluster("a", "10.0.0.1", tls={"context": "client/a"}))
    made["tls"] = [{"name": "client/a", "server": False, "ca_file": str(ca)}]
    other = fragment("b", cluster("b", "10.0.0.2"))
    config, problems = assemble("n", SPEC, "strict", {"svc/a": made, "svc/b": other}, identity)
    assert problems == {}
    assert config["tls"][-1] == {"name": "client/a", "server": False, "ca": b"-----BEGIN CERTIFICATE-----\n"}
    ca.write_text("nonsense")
    config, problems = assemble("n", SPEC, "strict", {"svc/a": made, "svc/b": other}, identity)
    assert problems == {"svc/a": f"{ca}: not a PEM file"}
    assert [v["domains"] for v in config["tables"][1]["virtual_hosts"]] == [["b"]]


def test_a_pipe_in_the_place_of_a_file_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)):
        with pytest.raises(Problem, match="not a PEM file"):
            read_pem(path)
