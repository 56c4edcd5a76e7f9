"""TCP and TLS rules compiled: for listeners of an edge, for fragments, and into the config of a sidecar."""

from __future__ import annotations

from typing import Any

import pytest
from shim.shm_shim import Frozen

from fastmesh._core.shm.segment import SnapshotError
from fastmesh.agent.assemble import assemble, identity_contexts
from fastmesh.agent.tcpside import full_names
from fastmesh.compile.cells import CellMap
from fastmesh.compile.edge import compile_edge
from fastmesh.compile.packing import network_bytes
from fastmesh.compile.services import Workload, World, compile_service, compile_services
from fastmesh.compile.snapshot import pack
from fastmesh.model.load import load_dicts
from fastmesh.model.problems import ConfigError

DB = "db.default.svc.cluster.local"


def obj(kind: str, spec: dict[str, Any], name: str = "x") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def server(port: int, protocol: str, *hosts: str, **more: Any) -> dict[str, Any]:
    return {
        "port": {"number": port, "name": f"p{port}", "protocol": protocol},
        "hosts": list(hosts or "*"),
        **more,
    }


def gateway(*servers: dict[str, Any]) -> dict[str, Any]:
    return obj("Gateway", {"servers": list(servers)}, "gw")


def rules(kind: str, *given: dict[str, Any], hosts: tuple[str, ...] = ("*",), **more: Any) -> dict[str, Any]:
    return obj("VirtualService", {"hosts": list(hosts), kind: list(given), **more})


def to(*hosts: str, **match: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"route": [{"destination": {"host": h}, "weight": 1} for h in hosts]}
    return {"match": [match], **made} if match else made


def entry(name: str, protocol: str = "TCP", number: int = 80) -> dict[str, Any]:
    return obj(
        "ServiceEntry",
        {
            "hosts": [name],
            "ports": [{"number": number, "name": "p", "protocol": protocol}],
            "resolution": "STATIC",
            "endpoints": [{"address": "10.0.0.1"}],
        },
        name,
    )


def edge(*docs: dict[str, Any], folder: Any = None) -> Any:
    return compile_edge(load_dicts(list(docs)).ok(), folder)


def workload(service: str = "db", *, tcp: bool = True, **more: Any) -> Workload:
    labels = {"version": "v1", **({"fastmesh.io/app-protocol": "TCP"} if tcp else {})}
    made = {
        "name": service,
        "service": service,
        "namespace": "default",
        "address": "10.0.0.1",
        "port": 15006,
        "app_port": 5432,
        "identity": f"spiffe://cluster.local/ns/default/sa/{service}",
        "labels": labels,
    }
    return Workload(**{**made, **more})


# -- an edge -------------------------------------------------------------------------------------------------


def test_tcp_rules_of_an_edge() -> None:
    made = edge(
        gateway(server(1, "TCP"), server(2, "mysql")),
        rules(
            "tcp",
            to("a", "b"),
            to("b", port=2, destinationSubnets=["10.0.0.0/8", "::1"]),
            to("a", sourceLabels={"app": "x"}),
            gateways=["gw"],
        ),
        entry("a"),
        entry("b", "REDIS"),
        obj(
            "DestinationRule",
            {
                "host": "a",
                "trafficPolicy": {
                    "connectionPool": {
                        "tcp": {"idleTimeout": "0s", "maxConnections": 5, "maxConnectionDuration": "1h"},
                        "http": {"idleTimeout": "7s", "http2MaxRequests": 9},
                    }
                },
            },
        ),
    )
    assert [(x["port"], x["protocol"], x["tls_mode"]) for x in made["listeners"]] == [
        (1, "tcp", "disable"),
        (2, "tcp", "disable"),
    ]
    first, second = [h for t in made["tables"] for h in t["virtual_hosts"]]
    both = {
        "name": "x.default.tcp[0]",
        "dests": [{"cluster": f"outbound|80||{h}", "weight": 1} for h in "ab"],
    }
    assert first["domains"] == ["*"] and first["routes"] == [both]
    # what takes every session comes last
    assert second["routes"] == [
        {
            "name": "x.default.tcp[1]",
            "dests": [{"cluster": "outbound|80||b", "weight": 1}],
            "conds": [{"on": "destination", "op": "exact", "networks": ["10.0.0.0/8", "::1"]}],
        },
        both,
    ]
    clusters = {c["name"]: c for c in made["clusters"]}
    a = clusters["outbound|80||a"]
    assert {k: a.get(k) for k in ("protocol", "idle_timeout_ms", "max_connections", "max_age_ms")} == {
        "protocol": "tcp",
        "idle_timeout_ms": 0,
        "max_connections": 5,
        "max_age_ms": 3_600_000,
    }
    assert "max_requests" not in a and clusters["outbound|80||b"]["protocol"] == "tcp"
    assert Frozen(pack(made, CellMap())).check() is None


def test_tls_rules_of_an_edge_by_name() -> None:
    made = edge(
        gateway(
            server(443, "TLS", "*.b.example", "a.example", tls={"mode": "PASSTHROUGH"}),
            server(443, "HTTPS", "c.example", tls={}),
        ),
        rules(
            "tls",
            to("a", sniHosts=["a.example", "x.b.example"]),
            to("b", sniHosts=["*.b.example"]),
            to("b", sniHosts=["other.example"]),
            to("a", sniHosts=["c.example"], destinationSubnets=["10.0.0.1"]),
            hosts=("a.example", "*.b.example", "other.example", "c.example"),
            gateways=["gw"],
        ),
        entry("a", "TLS"),
        entry("b", "HTTPS"),
    )
    (listener,) = made["listeners"]
    assert listener["protocol"] == "sni" and listener["tls_mode"] == "disable" and made["tls"] == []
    found = {
        h["domains"][0]: [r["dests"][0]["cluster"][-1] for r in h["routes"]]
        for h in made["tables"][0]["virtual_hosts"]
    }
    # a name that no server has is not served
    assert found == {"a.example": ["a"], "x.b.example": ["a"], "*.b.example": ["b"], "c.example": ["a"]}
    assert "warnings" not in made
    assert Frozen(pack(made, CellMap())).check() is None


@pytest.mark.parametrize(
    ("docs", "said"),
    [
        (
            [gateway(server(1, "TCP"), server(1, "HTTP"))],
            "HTTP contradicts TCP on port 1",
        ),
        (
            [gateway(server(1, "TLS", tls={}), server(1, "TCP"))],
            "TCP contradicts TLS on port 1",
        ),
        ([gateway(server(1, "TCP", tls={"mode": "PASSTHROUGH"}))], "contradicts protocol TCP"),
        ([gateway(server(1, "TLS"))], "spec.servers[0].tls: is required by protocol TLS"),
        ([gateway(server(1, "TLS", tls={"httpsRedirect": True}))], "tls.mode: is required by protocol TLS"),
        ([rules("tls", to("a", sniHosts=["x.example"]), hosts=("y.example",))], "x.example is none of this"),
        ([rules("tls", to("a"))], "spec.tls[0].match: is required"),
        ([rules("tls", to("a", port=1))], "spec.tls[0].match[0].sniHosts: is required"),
        ([rules("tcp", {"match": [{"port": 1}]})], "spec.tcp[0].route: is required"),
        ([rules("tcp", to("a", destinationSubnets=["10.0.0.0/33"]))], "at most 32"),
        ([rules("tcp", to("a", destinationSubnets=["ten"]))], "neither an IP address nor a network"),
        ([rules("tcp", to("nobody"), gateways=["gw"])], "no ServiceEntry defines nobody"),
        ([rules("tcp", {"route": [{"destination": {"host": h}} for h in "ab"]})], "all weights are 0"),
        ([obj("VirtualService", {"tcp": [to("a")]})], "a delegate has http routes only"),
        ([obj("VirtualService", {"hosts": ["a"]})], "needs at least one http, tls or tcp route"),
    ],
    ids=range(15),
)
def test_what_contradicts_itself_is_refused(docs: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        edge(*docs, entry("a"))
    assert said in str(caught.value)


def test_rules_that_no_server_is_for_are_told() -> None:
    made = edge(gateway(server(1, "TCP")), rules("tcp", to("a"), gateways=["gw"]), entry("a"))
    assert "warnings" not in made
    made = edge(gateway(server(1, "HTTP")), rules("tcp", to("a"), gateways=["gw"]), entry("a"))
    assert "no server of its gateways speaks TCP" in str(made["warnings"])


# -- sidecars ------------------------------------------------------------------------------------------------


def fragment(world: World, host: str = DB) -> Any:
    return compile_service(world, host)


def test_a_service_whose_workloads_say_tcp() -> None:
    made = fragment(World([], [workload()]))
    assert made["virtual_hosts"] == []
    dests = [{"cluster": f"outbound|5432||{DB}", "weight": 1}]
    assert made["tcp"] == [{"port": 5432, "routes": [{"name": "default", "dests": dests}]}]
    (cluster,) = made["clusters"]
    assert cluster["protocol"] == "tcp" and cluster["tls"]["context"] == "identity-tcp"
    plain = fragment(World([], [workload(tcp=False)]))
    assert "tcp" not in plain and plain["clusters"][0]["tls"]["context"] == "identity"


@pytest.mark.parametrize(
    ("protocol", "tcp"), [("TCP", True), ("MONGO", True), ("HTTPS", True), ("HTTP", False)]
)
def test_a_service_entry_that_says_its_protocol(protocol: str, tcp: bool) -> None:
    made = fragment(World(load_dicts([entry("a.example", protocol, 1234)]).ok()), "a.example")
    assert [p["port"] for p in made.get("tcp", [])] == ([1234] if tcp else [])
    assert bool(made["virtual_hosts"]) != tcp


def test_tcp_rules_of_sidecars_and_what_they_depend_on() -> None:
    docs = [
        rules(
            "tcp",
            to("db", port=5432),
            to("other", sourceLabels={"app": "web"}),
            to("db", gateways=["gw"]),
            hosts=("db",),
        )
    ]
    world = World(load_dicts(docs).ok(), [workload(), workload("other")])
    (port,) = fragment(world)["tcp"]
    assert [
        (r["dests"][0]["cluster"].rpartition("|")[2].partition(".")[0], r.get("source"))
        for r in port["routes"]
    ] == [
        ("other", {"labels": {"app": "web"}}),
        ("db", None),
    ]
    assert set(compile_services(world, {"other.default.svc.cluster.local"})) == {
        DB,
        "other.default.svc.cluster.local",
    }


SPEC: Any = {
    "bundle": {}, "service": "web", "namespace": "default", "version": "", "app": ("127.0.0.1", 80),
    "app_protocol": "", "inbound": ("0.0.0.0", 15006), "address": "", "outbound": ("127.0.0.1", 15001),
    "locality": "",
}  # fmt: skip
IDENTITY = identity_contexts(b"key", b"chain", b"roots", "cluster.local")


def assembled(fragments: dict[str, Any], **spec: Any) -> Any:
    config, problems = assemble("n", {**SPEC, **spec}, "strict", fragments, IDENTITY)
    assert problems == {}
    return config


def test_a_local_port_of_a_sidecar() -> None:
    fragments = {"svc/db": fragment(World([], [workload()]))}
    local = [("127.0.0.1", 1, "db", 0), ("::1", 2, "db.default", 5432), ("127.0.0.1", 3, "nobody", 9)]
    made = assembled(fragments, tcp=local)
    listeners = {x["name"]: x for x in made["listeners"]}
    assert set(listeners) == {"inbound", "outbound", "tcp_127.0.0.1_1", "tcp_[::1]_2", "tcp_127.0.0.1_3"}
    assert all(x["protocol"] == "tcp" for name, x in listeners.items() if name.startswith("tcp_"))
    tables = {t["name"]: t["virtual_hosts"][0]["routes"] for t in made["tables"][2:]}
    assert tables["tcp_127.0.0.1_1"] == tables["tcp_[::1]_2"] == fragments["svc/db"]["tcp"][0]["routes"]
    assert tables["tcp_127.0.0.1_3"] == []
    assert [(t["name"], t["alpn"]) for t in made["tls"][2:]] == [("identity-tcp", ["fastmesh-tcp"])]


def test_a_service_that_nobody_serves_now_has_no_endpoint_rather_than_no_route() -> None:
    gone = fragment(World([], [], {("default", "db"): [5432]}))
    table = assembled({"svc/db": gone}, tcp=[("127.0.0.1", 1, "db", 0)])["tables"][2]
    assert [r["dests"][0]["cluster"] for r in table["virtual_hosts"][0]["routes"]] == [f"outbound|5432||{DB}"]
    # but what serves HTTP is not sent bytes
    http = fragment(World([], [workload(tcp=False)]))
    table = assembled({"svc/db": http}, tcp=[("127.0.0.1", 1, "db", 0)])["tables"][2]
    assert table["virtual_hosts"][0]["routes"] == []


def test_an_application_that_speaks_tcp() -> None:
    made = assembled({}, app_protocol="TCP")
    inbound = made["listeners"][0]
    assert (inbound["protocol"], inbound["tls"]) == ("tcp", ["identity-server-tcp"])
    assert made["clusters"][0]["protocol"] == "tcp"
    assert [t["name"] for t in made["tls"]] == ["identity", "identity-server", "identity-server-tcp"]


def test_names_of_services() -> None:
    assert full_names("DB", "shop") == ["db", "db.shop.svc.cluster.local"]
    assert full_names("db.shop", "x") == ["db.shop", "db.shop.svc.cluster.local"]
    assert full_names("db.shop.svc", "x") == ["db.shop.svc", "db.shop.svc.cluster.local"]
    assert full_names("a.b.c.d", "x") == ["a.b.c.d"]


def test_networks() -> None:
    assert network_bytes("10.0.0.0/8", "x") == b"\4\x08\x0a" + bytes(15)
    assert network_bytes("10.0.0.1", "x")[:2] == b"\4\x20" and network_bytes("::/0", "x") == b"\6" + bytes(17)
    for bad in ("10.0.0.0/33", "10.0.0.0/x", "10.0.0.0/", "a/8", "::/129"):
        with pytest.raises(SnapshotError):
            network_bytes(bad, "x")
