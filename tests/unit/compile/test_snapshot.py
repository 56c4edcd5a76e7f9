"""compile/snapshot and tables: what becomes of a config, what is refused and where, whose cell is whose."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from shim.policy_shim import Balancer, Request, Router, header_id
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm import segment as seg
from fastmesh.compile.cells import CellMap
from fastmesh.compile.tables import HEADER_IDS, RETRY_ON, normal_domain
from fastmesh.model.schema_virtualservice import RETRY_ON as RETRY_ON_WORDS
from helpers.irconf import cluster, config, packed, route, vhost

SERVER = {"name": "id", "server": True, "cert": b"C", "key": b"K"}


def test_header_ids_are_those_of_the_codec():
    assert {name: header_id(name.encode()) for name in HEADER_IDS} == HEADER_IDS
    assert header_id(b"x-other") == 0


def test_the_same_config_gives_the_same_bytes():
    made = config(vhost(["a"], route()), vhost(["b"], route()))
    assert packed(made) == packed(copy.deepcopy(made))


def test_ten_thousand_routes_over_a_thousand_hosts():
    paths = [route(f"r{k}", path={"op": "prefix", "value": f"/v{k}"}) for k in range(10)]
    data = packed(config(*[vhost([f"h{i}.example.com"], *paths) for i in range(1000)]))
    frozen = Frozen(data)
    assert frozen.check() is None and len(data) < 300 * 10_000
    router = Router(frozen)
    for i in range(0, 1000, 37):
        found = router.match(Request(host=b"h%d.example.com" % i, path=b"/v9/x"))
        assert found[:2] == (f"h{i}.example.com", "r9")


@pytest.mark.parametrize(
    ("domain", "want"),
    [
        ("A.com", "a.com"),
        ("a.com.", "a.com"),
        ("a.com.:80", "a.com:80"),
        ("*", "*"),
        ("*.A.com", "*.a.com"),
        ("*.a.com:80", "*.a.com:80"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]:80"),
        ("reviews", "reviews"),
    ],
)
def test_domains_are_spelled_as_they_are_looked_up(domain, want):
    assert normal_domain(domain, "x") == want


@pytest.mark.parametrize(
    "domain", ["", ".", "*a.com", "a.*", "*.", "*.*.a", "*:80", "é.com", "x" * 254, ":80"]
)
def test_a_domain_that_cannot_be_looked_up_is_refused(domain):
    with pytest.raises(seg.SnapshotError, match=r"tables\[0\].virtual_hosts\[0\].domains"):
        packed(config(vhost([domain], route(), name="v")))


def changed(**more: Any) -> dict[str, Any]:
    return config(vhost(["*"], route(**more)))


ROUTE = r"tables[0].virtual_hosts[0].routes[0]"


@pytest.mark.parametrize(
    ("made", "path", "why"),
    [
        (changed(path={"op": "regex", "value": "("}), f"{ROUTE}.path.value", "missing )"),
        (changed(path={"op": "present", "value": ""}), f"{ROUTE}.path.op", "always"),
        (changed(path={"op": "glob", "value": ""}), f"{ROUTE}.path.op", "'glob' is none of any, exact"),
        (changed(conds=[{"on": "header", "op": "exact", "value": "x"}]), f"{ROUTE}.conds[0].name", "missing"),
        (changed(conds=[{"on": "moon", "op": "exact"}]), f"{ROUTE}.conds[0].on", "'moon' is none of method"),
        (
            changed(conds=[{"on": "header", "name": "a", "op": "path_prefix"}]),
            f"{ROUTE}.conds[0].op",
            "paths only",
        ),
        (
            changed(conds=[{"on": "port", "op": "exact"}]),
            f"{ROUTE}.conds[0].number",
            "None is not a whole number",
        ),
        (
            changed(conds=[{"on": "method", "op": "regex", "value": "[a"}]),
            f"{ROUTE}.conds[0].value",
            "missing ]",
        ),
        (changed(dests=[]), f"{ROUTE}.dests", "empty"),
        (
            changed(dests=[{"cluster": "c", "weight": -1}]),
            f"{ROUTE}.dests[0].weight",
            "-1 is not a whole number",
        ),
        (changed(dests=[{"cluster": "c", "weight": 10**6}] * 20), f"{ROUTE}.dests", "weights add up"),
        (changed(redirect={}, direct={"status": 200}), ROUTE, "exactly one of"),
        (
            changed(request_headers={"set": [["x-a", "a\r\nb"]]}),
            f"{ROUTE}.request_headers.set.x-a",
            "line end",
        ),
        (changed(response_headers={"add": [["x a", ""]]}), f"{ROUTE}.response_headers.add", "'x a' is not"),
        (
            changed(response_headers={"remove": [""]}),
            f"{ROUTE}.response_headers.remove",
            "'' is not a header name",
        ),
        (changed(rewrite={"path": "/a b"}), f"{ROUTE}.rewrite.path", "a space"),
        (changed(rewrite={"authority": "a\n"}), f"{ROUTE}.rewrite.authority", "a space or a control"),
        (changed(redirect={"authority": "a\r\nSet-Cookie: x"}), f"{ROUTE}.redirect.authority", "a space"),
        (changed(redirect={"path": "/\0"}), f"{ROUTE}.redirect.path", "a space"),
        (changed(redirect={"prefix": "x" * 9000}), f"{ROUTE}.redirect.prefix", "over 8192"),
        (changed(redirect={"code": 200}), f"{ROUTE}.redirect.code", "300 to 399"),
        (changed(direct={"status": 100}), f"{ROUTE}.direct.status", "200 to 599"),
        (changed(retries={"retry_on": ["5xx", "sometimes"]}), f"{ROUTE}.retries.retry_on[1]", "'sometimes'"),
        (changed(timeout_ms=1.5), f"{ROUTE}.timeout_ms", "1.5"),
        (
            config(vhost(["a", "b"], route()), vhost(["B"], route())),
            "tables[0].virtual_hosts[1].domains",
            "'a' too",
        ),
        (config(clusters=[cluster("c", 1), cluster("c", 2)]), "clusters[1].name", "twice"),
        (config(clusters=[cluster("c", 0)]), "clusters[0].endpoints[0].port", "1 to 65535"),
        (config(clusters=[cluster("c", lb="MAGIC")]), "clusters[0].lb", "ROUND_ROBIN"),
        (config(clusters=[cluster("c", protocol="spdy")]), "clusters[0].protocol", "http1, h2, as_client"),
        (config(clusters=[cluster("c", max_streams=-1)]), "clusters[0].max_streams", "-1"),
        (
            config(clusters=[{"name": "c", "endpoints": [{"address": "example.com", "port": 1}]}]),
            "clusters[0].endpoints[0].address",
            "no IP address",
        ),
        (config(clusters=[cluster("c", 1, tls={"context": "x"})]), "clusters[0].tls.context", "'x'"),
        (
            config(clusters=[{"name": "c", "endpoints": [{"address": "::1", "port": 1, "tls": True}]}]),
            "clusters[0].tls",
            "missing",
        ),
        (config(tls=[{"name": "s", "server": True}]), "tls[0]", "needs cert and key"),
        (config(tls=[{"name": "s", "server": False, "cert": b"x"}]), "tls[0]", "go together"),
        (config(tls=[{**SERVER, "min_version": "1.1"}]), "tls[0].min_version", "'1.1'"),
        (config(tls=[{**SERVER, "alpn": [""]}]), "tls[0].alpn", "1 to 255"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_its_path(made, path, why):
    with pytest.raises(seg.SnapshotError) as caught:
        packed(made)
    at, _, reason = str(caught.value).partition(": ")
    assert at == path and why in reason


@pytest.mark.parametrize(
    ("listener", "why"),
    [
        ({"table": "none"}, "listeners[0].table: 'none' is none of main"),
        ({"kind": "sideways"}, "listeners[0].kind"),
        ({"tls_mode": "strict"}, "listeners[0].tls: TLS without a certificate"),
        ({"tls": ["none"]}, "listeners[0].tls[0]"),
        ({"port": 65536}, "listeners[0].port"),
    ],
)
def test_listeners_name_what_is_there(listener, why):
    made = config(vhost(["*"], route()))
    made["listeners"][0].update(listener)
    with pytest.raises(seg.SnapshotError) as caught:
        packed(made)
    assert why in str(caught.value)


def test_listeners_are_found_with_their_certificates():
    made = config(vhost(["*"], route()), tls=[SERVER, {**SERVER, "name": "two"}])
    made["listeners"].append(
        {
            "name": "in",
            "kind": "inbound",
            "address": "::",
            "port": 15006,
            "table": "main",
            "tls_mode": "permissive",
            "tls": ["two", "id"],
            "https_redirect": True,
        }
    )
    found = Frozen(packed(made)).listener("in")
    assert found == {"kind": 2, "tls_mode": 2, "port": 15006, "flags": 1, "table": 0, "tls": [1, 0]}


@pytest.mark.parametrize(
    ("more", "h2", "as_client", "streams"),
    [
        ({}, False, False, 0),
        ({"protocol": "http1"}, False, False, 0),
        ({"protocol": "h2", "max_streams": 7}, True, False, 7),
        ({"protocol": "as_client", "max_streams": 2**31 - 1}, False, True, 2**31 - 1),
    ],
)
def test_what_a_cluster_speaks(more, h2, as_client, streams):
    frozen = Frozen(packed(config(clusters=[cluster("c", 1, **more)])))
    assert frozen.check() is None
    made = frozen.upstream("c")
    assert (made["h2"], made["as_client"], made["max_streams"]) == (h2, as_client, streams)


def tls_policy(**context):
    tls = {"name": "t", "server": False, "alpn": ["http/1.1"], **context}
    return Frozen(packed(config(clusters=[cluster("c", 1, tls={"context": "t"})], tls=[tls]))).upstream("c")[
        "tls_policy"
    ]


MESH = {"cert": b"C", "key": b"K", "ca": b"R", "verify": True, "trust_domain": "d"}


@pytest.mark.parametrize("server", [True, False])
def test_the_mesh_link_is_offered_to_mesh_identities_only(server):
    def offers(*alpn, **more):
        packed(config(tls=[{"name": "t", "server": server, "alpn": list(alpn), **MESH, **more}]))

    offers("fastmesh", "h2", "http/1.1")
    offers("h2", "http/1.1", verify=False, trust_domain="")
    for less in ({"verify": False}, {"trust_domain": ""}, *([] if server else [{"cert": b"", "key": b""}])):
        with pytest.raises(seg.SnapshotError, match=r"tls\[0\]\.alpn: 'fastmesh' is for peers"):
            offers("h2", "fastmesh", **less)


@pytest.mark.parametrize("more", [{}, {"trust_domain": "d"}])
def test_kept_connections_depend_on_what_alpn_offers(more):
    assert tls_policy(**more) == tls_policy(**more)
    assert tls_policy(**more) != tls_policy(**more, alpn=["h2", "http/1.1"])
    assert tls_policy(**more, alpn=["h2"]) != tls_policy(**more, alpn=["h2", "http/1.1"])


def test_a_renewed_identity_keeps_connections_and_another_file_does_not():
    old, new = {"cert": b"C", "key": b"K"}, {"cert": b"D", "key": b"K"}
    assert tls_policy(trust_domain="d", **old) == tls_policy(trust_domain="d", **new)
    assert tls_policy(**old) != tls_policy(**new)


def test_grpc_statuses_are_conditions_of_retries():
    every = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]
    bits = [RETRY_ON[name] for name in every]
    assert len(set(bits)) == 5 and all(bit & (bit - 1) == 0 for bit in bits)
    assert Frozen(packed(changed(retries={"attempts": 1, "retry_on": every}))).check() is None


def test_every_condition_of_retries_that_the_language_has_is_a_bit_of_its_own():
    bits = [RETRY_ON[name] for name in RETRY_ON_WORDS]
    assert sum(bits) == 2 ** len(bits) - 1 and set(RETRY_ON) == set(RETRY_ON_WORDS)
    assert Frozen(packed(changed(retries={"attempts": 1, "retry_on": RETRY_ON_WORDS}))).check() is None


def test_a_single_destination_without_a_weight_takes_all():
    frozen = Frozen(packed(changed(dests=[{"cluster": "c", "weight": 0}])))
    router = Router(frozen)
    router.load()
    assert router.match(Request())[2] == "c"


def test_an_address_that_is_there_twice_is_one_endpoint():
    addresses = ["::1", "0:0::1", "10.0.0.1", "10.0.0.1"]
    made = config(clusters=[{"name": "c", "endpoints": [{"address": a, "port": 1} for a in addresses]}])
    frozen = Frozen(packed(made))
    assert frozen.check() is None
    balancer = Balancer(frozen, WorkerView(seg.Segment.create(1), 0))
    assert list(balancer.cells("c")) == ["[::1]:1", "10.0.0.1:1"]


def test_an_endpoint_without_weight_is_left_out_and_ipv6_is_written_in_brackets():
    frozen = Frozen(
        packed(
            config(
                clusters=[
                    {
                        "name": "c",
                        "endpoints": [
                            {"address": "::1", "port": 1},
                            {"address": "10.0.0.1", "port": 2, "weight": 0},
                        ],
                    },
                ]
            )
        )
    )
    assert frozen.check() is None
    balancer = Balancer(frozen, WorkerView(seg.Segment.create(1), 0))
    assert list(balancer.cells("c")) == ["[::1]:1"] and balancer.pick("c") == ["[::1]:1"]


# --- cells


def cells_of(segment: seg.Segment) -> dict[str, int]:
    """{endpoint: cell} of the published generation."""
    balancer = Balancer(Frozen(segment.current_bytes()), WorkerView(segment, 0))
    return balancer.cells("c")


def with_ports(*ports: int) -> dict[str, Any]:
    return config(clusters=[cluster("c", *ports), cluster("d", *ports)])


def test_an_endpoint_keeps_its_cell_over_generations_and_agents():
    segment = seg.Segment.create(1)
    cells = CellMap(segment)
    segment.publish(packed(with_ports(1, 2, 3), cells))
    first = cells_of(segment)
    assert len(set(first.values())) == 3
    segment.publish(packed(with_ports(3, 4, 1), cells))
    second = cells_of(segment)
    for kept in ("127.0.0.1:1", "127.0.0.1:3"):
        assert second[kept] == first[kept]
    # the agent was restarted: a new map over the same memory
    segment.publish(packed(with_ports(4, 3, 1, 5), CellMap(segment)))
    third = cells_of(segment)
    assert {k: third[k] for k in second} == second
    assert all(segment.endpoint_stats(cell)["tag"] for cell in third.values())


def test_clusters_do_not_share_cells():
    segment = seg.Segment.create(1)
    segment.publish(packed(with_ports(1), CellMap(segment)))
    assert len(segment.cell_tags()) == 2


def test_the_cell_of_a_removed_endpoint_is_free_when_it_is_quiet_and_nobody_can_use_it():
    segment = seg.Segment.create(2)
    worker, cells = WorkerView(segment, 1), CellMap(segment)

    def push(*ports: int) -> None:
        segment.publish(packed(config(clusters=[cluster("c", *ports)]), cells))

    segment.prepare(1)
    worker.state(seg.W_SERVING)
    push(1, 2)
    worker.seen(1)
    gone = cells_of(segment)["127.0.0.1:2"]
    worker.endpoint(gone, active=1, connections=1, requests=5)
    push(1)
    push(1, 3)  # the worker still uses generation 1
    assert gone in segment.cell_tags().values()
    worker.seen(3)
    push(1, 3, 4)  # an exchange is still there
    worker.seen(4)
    assert gone in segment.cell_tags().values()
    worker.endpoint(gone)
    assert segment.endpoint_stats(gone)["requests"] == 5
    push(1, 3, 4, 5)
    assert cells_of(segment)["127.0.0.1:5"] == gone  # given to the next, and nothing is left of the last
    assert segment.endpoint_stats(gone)["requests"] == 0


def test_an_endpoint_that_comes_back_before_it_was_forgotten_has_its_cell():
    segment = seg.Segment.create(1)
    cells = CellMap(segment)
    worker = WorkerView(segment, 0)
    segment.publish(packed(with_ports(1, 2), cells))
    before = cells_of(segment)
    worker.endpoint(before["127.0.0.1:2"], active=1)
    for ports in ((1,), (1, 2)):
        segment.publish(packed(with_ports(*ports), cells))
    assert cells_of(segment) == before


def test_too_many_endpoints_are_refused_and_the_rest_still_packs():
    cells = CellMap()
    many = cluster("c", *range(1, seg.EP_CELLS + 2))
    with pytest.raises(seg.SnapshotError, match=f"more than {seg.EP_CELLS} endpoints"):
        packed(config(clusters=[many]), cells)
    many["endpoints"].pop()
    assert Frozen(packed(config(clusters=[many]), cells)).check() is None
