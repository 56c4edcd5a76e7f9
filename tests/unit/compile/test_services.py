"""What sidecars need to reach a service: names, routes, clusters, mTLS; which fragments a change alters."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fastmesh.compile.fragment import localize
from fastmesh.compile.services import (
    Workload,
    World,
    compile_service,
    compile_services,
    effective_mtls,
)
from fastmesh.model.load import load_text
from fastmesh.model.schema import Resource

if TYPE_CHECKING:
    from fastmesh.compile.fragment import Fragment

REVIEWS = "reviews.default.svc.cluster.local"
RATINGS = "ratings.default.svc.cluster.local"
RETRIES = {"attempts": 2, "retry_on": ["connect-failure", "refused-stream", "unavailable", "cancelled"]}


def resources(text: str) -> list[Resource]:
    return load_text(text).ok()


def net(kind: str, spec: str, name: str = "x", namespace: str = "default") -> str:
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def peer(spec: str, name: str = "x", namespace: str = "default") -> str:
    return (
        f"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def workload(service: str = "reviews", version: str = "v1", port: int = 15006, **more: Any) -> Workload:
    made = {
        "name": f"{service}-{version}",
        "service": service,
        "namespace": "default",
        "address": "10.0.0.1",
        "port": port,
        "app_port": 9080,
        "identity": f"spiffe://cluster.local/ns/default/sa/{service}",
        "labels": {"version": version},
    }
    return Workload(**{**made, **more})


def fragment(world: World, host: str = REVIEWS) -> Fragment:
    made = compile_service(world, host)
    assert made is not None
    return made


def clusters(world: World, host: str = REVIEWS) -> dict[str, Any]:
    return {c["name"]: c for c in fragment(world, host)["clusters"]}


def test_a_service_without_any_rule() -> None:
    made = fragment(World([], [workload()]))
    assert made == {
        "host": REVIEWS,
        "virtual_hosts": [
            {
                "name": f"{REVIEWS}:9080",
                "domains": [
                    REVIEWS,
                    "reviews.default.svc",
                    "reviews.default",
                    f"{REVIEWS}:9080",
                    "reviews.default.svc:9080",
                    "reviews.default:9080",
                ],
                "local_domains": ["reviews", "reviews:9080"],
                "namespace": "default",
                "routes": [
                    {
                        "name": "default",
                        "dests": [{"cluster": f"outbound|9080||{REVIEWS}", "weight": 1}],
                        "retries": RETRIES,
                    }
                ],
            }
        ],
        "clusters": [
            {
                "name": f"outbound|9080||{REVIEWS}",
                "service": REVIEWS,
                "namespace": "default",
                "protocol": "as_client",
                "tls": {
                    "context": "identity",
                    "sni": f"outbound_.9080_._.{REVIEWS}",
                    "verify_san": True,
                    "sans": ["spiffe://cluster.local/ns/default/sa/reviews"],
                },
                "endpoints": [
                    {
                        "address": "10.0.0.1",
                        "port": 15006,
                        "workload": "reviews-v1",
                        "namespace": "default",
                        "version": "v1",
                        "tls": True,
                    }
                ],
            }
        ],
        "tls": [],
        "needs": [],
        "instances": ["10.0.0.1:9080"],
    }


def test_bare_names_are_for_clients_of_the_same_namespace() -> None:
    made = fragment(World([], [workload()]))
    own, other = localize(made, "default", {}), localize(made, "shop", {})
    assert set(own[0]) == {"name", "domains", "routes"}
    assert set(own[0]["domains"]) - set(other[0]["domains"]) == {"reviews", "reviews:9080"}


CANARY = net(
    "DestinationRule",
    "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, "
    "{name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]}",
)


def test_a_canary() -> None:
    rules = CANARY + net(
        "VirtualService",
        """
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 95}
    - {destination: {host: reviews, subset: v2}, weight: 5}
""",
    )
    world = World(resources(rules), [workload(), workload(version="v2", port=15016, app_port=9081)])
    made = fragment(world)
    assert made["virtual_hosts"][0]["routes"][0]["dests"] == [
        {"cluster": f"outbound|9080|v1|{REVIEWS}", "weight": 95},
        {"cluster": f"outbound|9080|v2|{REVIEWS}", "weight": 5},
    ]
    by_name = clusters(world)
    ends = {n.split("|")[2]: [e["port"] for e in c["endpoints"]] for n, c in by_name.items()}
    assert ends == {"": [15006, 15016], "v1": [15006], "v2": [15016]}
    assert by_name[f"outbound|9080|v2|{REVIEWS}"]["lb"] == "RANDOM"
    assert "lb" not in by_name[f"outbound|9080|v1|{REVIEWS}"]
    # Workloads that share a machine have different application ports: the name is routed by any of them.
    assert "reviews.default:9081" in made["virtual_hosts"][0]["domains"]


@pytest.mark.parametrize(
    ("tls", "dialed", "context"),
    [
        ("{mode: DISABLE}", None, None),
        ("{}", None, None),
        ("{mode: ISTIO_MUTUAL}", True, "identity"),
        ("{mode: SIMPLE}", True, f"client/{REVIEWS}:9080"),
    ],
)
def test_a_destination_rule_decides_tls(tls: str, dialed: bool | None, context: str | None) -> None:
    rule = net("DestinationRule", f"{{host: reviews, trafficPolicy: {{tls: {tls}}}}}")
    cluster = clusters(World(resources(rule), [workload()]))[f"outbound|9080||{REVIEWS}"]
    assert cluster["endpoints"][0].get("tls") is dialed
    assert cluster.get("tls", {}).get("context") == context


def test_tls_files_are_left_to_the_sidecar() -> None:
    tls = (
        "{mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem, sni: b.test}"
    )
    rule = net("DestinationRule", f"{{host: reviews, trafficPolicy: {{tls: {tls}}}}}")
    made = fragment(World(resources(rule), [workload()]))
    assert made["tls"] == [
        {
            "name": f"client/{REVIEWS}:9080",
            "server": False,
            "verify": True,
            "alpn": ["h2", "http/1.1"],
            "cert_file": "/c.pem",
            "key_file": "/k.pem",
            "ca_file": "/ca.pem",
        }
    ]
    assert made["clusters"][0]["tls"] == {
        "context": f"client/{REVIEWS}:9080",
        "sni": "b.test",
        "sans": ["b.test"],
        "verify_san": True,
    }


def test_a_workload_that_disables_mtls_is_dialed_in_plain_text() -> None:
    policy = peer("{selector: {matchLabels: {version: v2}}, mtls: {mode: DISABLE}}")
    world = World(resources(policy), [workload(), workload(version="v2", port=15016)])
    cluster = clusters(world)[f"outbound|9080||{REVIEWS}"]
    assert [(e["port"], e.get("tls", False)) for e in cluster["endpoints"]] == [(15006, True), (15016, False)]


def test_identities_are_those_of_all_the_services_workloads() -> None:
    other = "spiffe://cluster.local/ns/default/sa/other"
    world = World(resources(CANARY), [workload(), workload(version="v2", identity=other)])
    expected = ["spiffe://cluster.local/ns/default/sa/other", "spiffe://cluster.local/ns/default/sa/reviews"]
    assert {tuple(c["tls"]["sans"]) for c in clusters(world).values()} == {tuple(expected)}


def test_a_service_without_workloads_stays_known() -> None:
    """Its requests get 503, not 404."""
    world = World([], [], {("default", "reviews"): [9080]})
    assert clusters(world) == {
        f"outbound|9080||{REVIEWS}": {
            "name": f"outbound|9080||{REVIEWS}",
            "service": REVIEWS,
            "namespace": "default",
            "protocol": "as_client",
            "endpoints": [],
        }
    }


def test_an_address_is_one_endpoint() -> None:
    """A workload that came back before its old lease ended."""
    world = World([], [workload(), workload(name="reviews-old", identity="")])
    assert [(e["workload"], e["tls"]) for e in clusters(world)[f"outbound|9080||{REVIEWS}"]["endpoints"]] == [
        ("reviews-old", True)
    ]


def test_an_unknown_service() -> None:
    assert compile_service(World([]), REVIEWS) is None


def test_routes_to_another_service_bring_its_clusters() -> None:
    rules = net("VirtualService", "{hosts: [reviews], http: [{route: [{destination: {host: ratings}}]}]}")
    world = World(resources(rules), [workload(), workload("ratings")])
    made = fragment(world)
    assert [c["name"] for c in made["clusters"]] == [f"outbound|9080||{RATINGS}", f"outbound|9080||{REVIEWS}"]
    assert made["needs"] == [RATINGS]
    assert set(compile_services(world, [RATINGS])) == {RATINGS, REVIEWS}
    assert set(compile_services(world, [REVIEWS])) == {REVIEWS}


def test_a_wildcard_rule() -> None:
    rules = net(
        "VirtualService",
        "{hosts: ['*.default.svc.cluster.local'], http: [{timeout: 1s, route: "
        "[{destination: {host: ratings}}]}]}",
    )
    world = World(resources(rules), [workload(), workload("ratings")])
    assert fragment(world)["virtual_hosts"][0]["routes"][0]["timeout_ms"] == 1000
    assert set(compile_services(world, [RATINGS])) == {RATINGS, REVIEWS, "*.default.svc.cluster.local"}


def test_ports_that_a_rule_tells_apart() -> None:
    entry = net(
        "ServiceEntry",
        """
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  addresses: [240.0.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: alt, protocol: HTTP}]
""",
    ) + net(
        "VirtualService",
        """
  hosts: [api.example.com]
  http:
  - match: [{port: 8080}]
    directResponse: {status: 418}
  - route: [{destination: {host: api.example.com}}]
""",
    )
    made = fragment(World(resources(entry)), "api.example.com")
    assert [(v["domains"], len(v["routes"])) for v in made["virtual_hosts"]] == [
        (["api.example.com", "240.0.0.1", "api.example.com:80", "240.0.0.1:80"], 1),
        (["api.example.com:8080", "240.0.0.1:8080"], 2),
    ]
    assert made["clusters"][1] == {
        "name": "outbound|80||api.example.com",
        "service": "api.example.com",
        "namespace": "default",
        "dns": True,
        "endpoints": [{"address": "api.example.com", "port": 80}],
    }


def test_an_https_port_is_routed_only_where_tls_is_originated() -> None:
    entry = net(
        "ServiceEntry",
        "{hosts: [api.example.com], resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}",
    )
    assert fragment(World(resources(entry)), "api.example.com")["virtual_hosts"] == []
    rule = net("DestinationRule", "{host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}")
    made = fragment(World(resources(entry + rule)), "api.example.com")
    assert made["virtual_hosts"][0]["domains"] == ["api.example.com", "api.example.com:443"]
    assert made["clusters"][0]["tls"] == {
        "context": "client/api.example.com:443",
        "sni": "api.example.com",
        "sans": ["api.example.com"],
        "verify_san": True,
    }


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("{number: 80, name: web}", "as_client"),
        ("{number: 80, name: http-web}", "http1"),
        ("{number: 80, name: grpc}", "h2"),
        ("{number: 80, name: web, protocol: HTTP2}", "h2"),
    ],
)
def test_what_a_port_of_a_service_entry_speaks(port: str, expected: str) -> None:
    entry = net("ServiceEntry", f"{{hosts: [api.example.com], resolution: DNS, ports: [{port}]}}")
    (made,) = fragment(World(resources(entry)), "api.example.com")["clusters"]
    assert made.get("protocol", "http1") == expected


@pytest.mark.parametrize(
    ("port", "http", "expected"),
    [
        ("{number: 80, name: http}", "{}", ["http/1.1"]),
        ("{number: 443, name: https}", "{}", ["http/1.1"]),
        ("{number: 80, name: http}", "{h2UpgradePolicy: UPGRADE}", ["h2", "http/1.1"]),
        ("{number: 80, name: http}", "{useClientProtocol: true}", ["h2", "http/1.1"]),
        ("{number: 80, name: grpc}", "{}", ["h2"]),
        ("{number: 80, name: web}", "{}", ["h2", "http/1.1"]),
    ],
)
def test_what_a_sidecar_offers_to_a_server_it_originates_tls_to(
    port: str, http: str, expected: list[str]
) -> None:
    rules = net("ServiceEntry", f"{{hosts: [api.example.com], resolution: DNS, ports: [{port}]}}") + net(
        "DestinationRule",
        "{host: api.example.com, trafficPolicy: "
        f"{{tls: {{mode: SIMPLE}}, connectionPool: {{http: {http}}}}}}}",
    )
    (context,) = fragment(World(resources(rules)), "api.example.com")["tls"]
    assert context["alpn"] == expected


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ("{}", "as_client"),
        ("{h2UpgradePolicy: DO_NOT_UPGRADE}", "as_client"),
        ("{h2UpgradePolicy: UPGRADE}", "h2"),
        ("{useClientProtocol: true}", "as_client"),
    ],
)
def test_a_sidecar_without_mtls_is_spoken_to_as_the_client_speaks(http: str, expected: str) -> None:
    rules = net(
        "DestinationRule",
        f"{{host: reviews, trafficPolicy: {{tls: {{mode: DISABLE}}, connectionPool: {{http: {http}}}}}}}",
    )
    (made,) = clusters(World(resources(rules), [workload()])).values()
    assert (made["protocol"], "tls" in made) == (expected, False)


def test_a_service_entry_selects_workloads() -> None:
    entry = net(
        "ServiceEntry",
        "{hosts: [all.example], location: MESH_INTERNAL, resolution: STATIC, "
        "workloadSelector: {labels: {tier: web}}, ports: [{number: 80, name: http, targetPort: 8080}]}",
    )
    vm = net(
        "WorkloadEntry",
        "{address: 10.9.9.9, serviceAccount: vm, labels: {tier: web, security.istio.io/tlsMode: istio}}",
        "vm",
    )
    world = World(resources(entry + vm), [workload(labels={"tier": "web"}), workload("ratings")])
    cluster = clusters(world, "all.example")["outbound|80||all.example"]
    assert [(e["address"], e["port"], e.get("tls")) for e in cluster["endpoints"]] == [
        ("10.9.9.9", 8080, True),
        ("10.0.0.1", 15006, True),
    ]
    assert cluster["tls"]["sans"] == [
        "spiffe://cluster.local/ns/default/sa/reviews",
        "spiffe://cluster.local/ns/default/sa/vm",
    ]
    assert "all.example" in compile_services(world, [REVIEWS])


@pytest.mark.parametrize(
    ("authority", "namespace", "host"),
    [
        ("reviews", "default", REVIEWS),
        ("Reviews:9080", "default", REVIEWS),
        ("reviews", "shop", None),
        ("reviews.default", "shop", REVIEWS),
        ("reviews.default.svc:80", "shop", REVIEWS),
        (REVIEWS + ".", "shop", REVIEWS),
        ("api.example.com", "shop", "api.example.com"),
        ("240.0.0.1:80", "shop", "api.example.com"),
        ("x.wild.example", "shop", "*.wild.example"),
        ("wild.example", "shop", None),
        ("[::1]:80", "shop", None),
        ("", "shop", None),
    ],
)
def test_what_a_host_header_means(authority: str, namespace: str, host: str | None) -> None:
    entries = net(
        "ServiceEntry",
        "{hosts: [api.example.com], addresses: [240.0.0.1], resolution: DNS, "
        "ports: [{number: 80, name: http}]}",
    ) + net(
        "ServiceEntry",
        "{hosts: ['*.wild.example'], resolution: STATIC, endpoints: [{address: 10.0.0.9}], "
        "ports: [{number: 80, name: http}]}",
        "wild",
    )
    assert World(resources(entries), [workload()]).resolve(authority, namespace) == host


def test_another_state_of_the_registry_shares_what_follows_from_resources() -> None:
    world = World(resources(CANARY), [workload()], trust_domain="td")
    other = world.with_registry([workload(), workload(version="v2", port=15016)])
    assert other.index is world.index and other.trust_domain == "td"
    assert len(clusters(other)[f"outbound|9080||{REVIEWS}"]["endpoints"]) == 2


MTLS = {
    "mesh": peer("{mtls: {mode: PERMISSIVE}}", "m", "istio-system"),
    "namespace": peer("{mtls: {mode: DISABLE}}", "n"),
    "unset": peer("{mtls: {mode: UNSET}}", "n"),
    "workload": peer("{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}", "w"),
    "port": peer("{selector: {matchLabels: {app: reviews}}, portLevelMtls: {9080: {mode: DISABLE}}}", "p"),
}


@pytest.mark.parametrize(
    ("policies", "port", "mode"),
    [
        ((), None, "strict"),
        (("mesh",), None, "permissive"),
        (("mesh", "namespace"), None, "disable"),
        (("mesh", "unset"), None, "permissive"),
        (("mesh", "namespace", "workload"), None, "strict"),
        (("mesh", "port"), 9080, "disable"),
        (("mesh", "port"), 9081, "permissive"),
    ],
)
def test_effective_mtls(policies: tuple[str, ...], port: int | None, mode: str) -> None:
    world = World(resources("".join(MTLS[p] for p in policies)))
    assert effective_mtls(world, "default", {"app": "reviews"}, port) == mode


def test_the_oldest_policy_counts() -> None:
    def policy(name: str, mode: str, created: str) -> Resource:
        made = resources(peer(f"{{mtls: {{mode: {mode}}}}}", name))[0]
        made.created = created
        return made

    world = World(
        [policy("a", "DISABLE", "2026-02-01T00:00:00Z"), policy("b", "PERMISSIVE", "2026-01-01T00:00:00Z")]
    )
    assert effective_mtls(world, "default", {}) == "permissive"


def test_it_needs_nothing_heavy() -> None:
    """Agents and the control plane import these: no YAML, no cryptography, nothing of the data plane."""
    code = (
        "import sys, fastmesh.compile.services, fastmesh.compile.fragment, fastmesh.model.validate\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('yaml', 'cryptography') or '_core' in m]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
