"""Gateways of an edge: listeners, hosts, TLS files, what VirtualServices they serve."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastmesh.compile.edge import compile_edge
from fastmesh.model.load import load_dicts
from fastmesh.model.problems import ConfigError


def obj(kind: str, spec: dict[str, Any], name: str = "x", namespace: str = "default") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def server(port: int, *hosts: str, **more: Any) -> dict[str, Any]:
    protocol = "HTTPS" if "mode" in more.get("tls", {}) else "HTTP"
    return {"port": {"number": port, "name": f"p{port}", "protocol": protocol}, "hosts": list(hosts), **more}


def gateway(*servers: dict[str, Any], name: str = "gw", namespace: str = "default") -> dict[str, Any]:
    return obj("Gateway", {"servers": list(servers)}, name, namespace)


def answers(
    status: int,
    *hosts: str,
    match: str = "",
    name: str = "vs",
    gateways: str = "gw",
    namespace: str = "default",
) -> dict[str, Any]:
    """A VirtualService that answers by itself."""
    rule: dict[str, Any] = {"directResponse": {"status": status}}
    if match:
        rule["match"] = [{"uri": {"exact": match}}]
    return obj(
        "VirtualService", {"hosts": list(hosts), "gateways": [gateways], "http": [rule]}, name, namespace
    )


def config(*docs: dict[str, Any], folder: Path = Path("/nowhere")) -> Any:
    return compile_edge(load_dicts(list(docs)).ok(), folder)


def served(made: Any, table: int = 0) -> dict[str, list[int]]:
    """Domain -> statuses of its routes, in order."""
    return {
        d: [r["direct"]["status"] if "direct" in r else r["redirect"]["code"] for r in v["routes"]]
        for v in made["tables"][table]["virtual_hosts"]
        for d in v["domains"]
    }


@pytest.mark.parametrize("protocol", ["HTTP", "http2", "GRPC", "kubernetes.io/h2c"])
def test_every_version_of_http_is_one_kind_of_listener(protocol: str) -> None:
    doc = gateway(server(8080, "*"))
    doc["spec"]["servers"][0]["port"]["protocol"] = protocol
    (made,) = config(doc, answers(200, "*"))["listeners"]
    assert (made["kind"], made["tls_mode"]) == ("gateway", "disable")


def test_listeners() -> None:
    made = config(
        gateway(server(8080, "*"), server(8081, "*", bind="127.0.0.1"), server(8082, "*", bind="::1")),
        gateway(server(8080, "a.example"), name="gw2"),
        answers(200, "*"),
    )
    assert [(x["name"], x["address"], x["port"], x["table"], x["tls_mode"]) for x in made["listeners"]] == [
        ("0.0.0.0_8080", "0.0.0.0", 8080, "0.0.0.0_8080", "disable"),
        ("127.0.0.1_8081", "127.0.0.1", 8081, "127.0.0.1_8081", "disable"),
        ("[::1]_8082", "::1", 8082, "[::1]_8082", "disable"),
    ]
    assert [t["name"] for t in made["tables"]] == [x["table"] for x in made["listeners"]]


# hosts of the gateway's server, hosts of the VirtualService, domains that are served
HOSTS: list[tuple[list[str], list[str], list[str]]] = [
    (["*"], ["a.example", "B.example"], ["a.example", "b.example"]),
    (["*"], ["*"], ["*"]),
    (["*"], ["*.example"], ["*.example"]),
    (["*.example"], ["a.example", "example", "a.b.example", "a.test"], ["a.example", "a.b.example"]),
    (["*.example"], ["*"], ["*.example"]),
    (["*.example"], ["*.a.example"], ["*.a.example"]),
    (["*.a.example"], ["*.example"], ["*.a.example"]),
    (["b.example", "a.example"], ["*.example"], ["a.example", "b.example"]),
    (["a.example"], ["b.example"], []),
    (["default/a.example"], ["a.example"], ["a.example"]),
    (["./a.example"], ["a.example"], ["a.example"]),
    (["*/a.example"], ["a.example"], ["a.example"]),
    (["shop/*"], ["a.example"], []),
    (["*"], ["10.0.0.1", "::1"], ["10.0.0.1", "[::1]"]),
]


@pytest.mark.parametrize(("server_hosts", "rule_hosts", "domains"), HOSTS, ids=str)
def test_of_two_hosts_the_narrower_is_served(
    server_hosts: list[str], rule_hosts: list[str], domains: list[str]
) -> None:
    assert list(served(config(gateway(server(80, *server_hosts)), answers(200, *rule_hosts)))) == domains


def test_namespaces_of_gateways_and_rules() -> None:
    made = config(
        gateway(server(80, "./*"), namespace="edge"),
        answers(200, "a.example", gateways="edge/gw"),
        answers(201, "b.example", namespace="edge"),
    )
    assert served(made) == {"b.example": [201]}


def test_rules_for_one_host_are_merged_and_the_catch_all_comes_last() -> None:
    made = config(
        gateway(server(80, "*")),
        answers(200, "a.example", "b.example", name="one"),
        answers(201, "a.example", match="/x", name="two"),
        answers(202, "a.example", match="/y", name="three"),
    )
    assert served(made) == {"a.example": [201, 202, 200], "b.example": [200]}


def test_gateways_that_share_a_port() -> None:
    made = config(
        gateway(server(80, "a.example")),
        gateway(server(80, "b.example"), name="gw2"),
        answers(200, "*"),
        answers(201, "*", name="vs2", gateways="gw2"),
    )
    assert len(made["listeners"]) == 1
    assert served(made) == {"a.example": [200], "b.example": [201]}


def test_https_redirect_of_all_servers_is_the_listeners() -> None:
    redirect = {"tls": {"httpsRedirect": True}}
    made = config(
        gateway(server(80, "a.example", **redirect), server(80, "b.example", **redirect)), answers(200, "*")
    )
    assert made["listeners"][0]["https_redirect"] is True


def test_https_redirect_of_one_server_is_a_route() -> None:
    made = config(
        gateway(server(80, "a.example", tls={"httpsRedirect": True}), server(80, "b.example")),
        answers(200, "*"),
    )
    assert "https_redirect" not in made["listeners"][0]
    assert served(made) == {"a.example": [301], "b.example": [200]}
    assert made["tables"][0]["virtual_hosts"][0]["routes"] == [{"redirect": {"code": 301, "scheme": "https"}}]


# -- TLS files ---------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str, *, days: int = 1, password: bytes | None = None) -> None:
    """NAME.crt and NAME.key, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    for name in ("a", "b", "ca"):
        certificate(folder, name)
    certificate(folder, "old", days=-2)
    certificate(folder, "locked", password=b"x")
    (folder / "junk.crt").write_text("not PEM")
    (folder / "cut.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "cut.key").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (folder / "big.crt").write_bytes(b"x" * (1024 * 1024 + 1))
    return folder


def tls(mode: str = "SIMPLE", cert: str = "a.crt", key: str = "a.key", **more: str) -> dict[str, Any]:
    return {"mode": mode, "serverCertificate": cert, "privateKey": key, **more}


def test_https_servers(certs: Path) -> None:
    made = config(
        gateway(
            server(443, "a.example", "shop/*.A.example", tls=tls(minProtocolVersion="TLSV1_3")),
            server(443, "*", tls=tls(cert="b.crt", key="b.key", minProtocolVersion="TLSV1_3"), name="rest"),
            server(444, "*", tls=tls("MUTUAL", cert=str(certs / "a.crt"), caCertificates="ca.crt")),
        ),
        answers(200, "*"),
        folder=certs,
    )
    assert [(x["tls_mode"], x["tls"]) for x in made["listeners"]] == [
        ("strict", ["default/gw/p443", "default/gw/rest"]),
        ("strict", ["default/gw/p444"]),
    ]

    def pem(name: str) -> bytes:
        return (certs / name).read_bytes()

    common = {"server": True, "alpn": ["h2", "http/1.1"]}
    assert made["tls"] == [
        {
            **common,
            "name": "default/gw/p443",
            "cert": pem("a.crt"),
            "key": pem("a.key"),
            "verify": False,
            "min_version": "1.3",
            "hosts": ["a.example", "*.a.example"],
        },
        {
            **common,
            "name": "default/gw/rest",
            "cert": pem("b.crt"),
            "key": pem("b.key"),
            "verify": False,
            "min_version": "1.3",
        },
        {
            **common,
            "name": "default/gw/p444",
            "cert": pem("a.crt"),
            "key": pem("a.key"),
            "verify": True,
            "min_version": "1.2",
            "ca": pem("ca.crt"),
        },
    ]


FILES: list[tuple[dict[str, Any], list[str]]] = [
    (tls(cert="no.crt"), ["tls.serverCertificate: no.crt: no such file"]),
    (
        tls(cert="no.crt", key="no.key"),
        ["tls.serverCertificate: no.crt: no such file", "tls.privateKey: no.key: no such file"],
    ),
    (tls(cert="."), ["tls.serverCertificate: .: is not a file"]),
    (tls(cert="junk.crt"), ["tls.serverCertificate: junk.crt: is not PEM"]),
    (tls(cert="big.crt"), ["tls.serverCertificate: big.crt: larger than 1024 KiB"]),
    (tls(key="b.key"), ["tls.privateKey: the key in b.key does not belong to the certificate in a.crt"]),
    (tls(key="locked.key"), ["tls.privateKey: is encrypted"]),
    (tls("MUTUAL", caCertificates="none.pem"), ["tls.caCertificates: none.pem: no such file"]),
]


@pytest.mark.parametrize(("settings", "expected"), FILES, ids=lambda v: str(v)[:70])
def test_a_file_that_cannot_serve(certs: Path, settings: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        config(gateway(server(443, "*", tls=settings)), answers(200, "*"), folder=certs)
    assert [f"{p.path}: {p.message}" for p in error.value.problems] == [
        f"spec.servers[0].{e}" for e in expected
    ]


@pytest.mark.parametrize("field", ["cert", "key"])
def test_pem_that_holds_something_else(certs: Path, field: str) -> None:
    with pytest.raises(ConfigError, match="holds no valid"):
        config(
            gateway(server(443, "*", tls=tls(**{field: f"cut.{field.replace('cert', 'crt')}"}))),
            answers(200, "*"),
            folder=certs,
        )


def test_an_expired_certificate_is_warned_of(certs: Path) -> None:
    made = config(
        gateway(server(443, "*", tls=tls(cert="old.crt", key="old.key"))), answers(200, "*"), folder=certs
    )
    assert "old.crt: the certificate expired on 20" in made["warnings"][0]


def backend(**tls_settings: Any) -> list[dict[str, Any]]:
    return [
        obj(
            "VirtualService",
            {
                "hosts": ["*"],
                "gateways": ["gw"],
                "http": [{"route": [{"destination": {"host": "b.example"}}]}],
            },
        ),
        obj(
            "ServiceEntry",
            {
                "hosts": ["b.example"],
                "resolution": "DNS",
                "ports": [{"number": 443, "name": "https", "protocol": "HTTPS"}],
            },
        ),
        obj("DestinationRule", {"host": "b.example", "trafficPolicy": {"tls": tls_settings}}),
    ]


def test_client_certificates(certs: Path) -> None:
    settings = {
        "mode": "MUTUAL",
        "clientCertificate": "a.crt",
        "privateKey": "a.key",
        "caCertificates": "ca.crt",
    }
    made = config(gateway(server(80, "*")), *backend(**settings), folder=certs)
    assert made["tls"] == [
        {
            "name": "client/b.example",
            "server": False,
            "verify": True,
            "alpn": ["http/1.1"],
            **{
                k: (certs / f).read_bytes()
                for k, f in (("cert", "a.crt"), ("key", "a.key"), ("ca", "ca.crt"))
            },
        }
    ]


def test_files_are_checked_along_with_everything_else(certs: Path) -> None:
    """One reload tells all: a broken reference does not hide a missing file."""
    settings = {
        "mode": "MUTUAL",
        "clientCertificate": "a.crt",
        "privateKey": "b.key",
        "caCertificates": "no.crt",
    }
    docs = backend(**settings)
    docs[0]["spec"]["http"][0]["route"][0]["destination"]["subset"] = "v9"
    with pytest.raises(ConfigError) as error:
        config(gateway(server(80, "*"), server(443, "*", tls=tls(cert="no.crt"))), *docs, folder=certs)
    assert sorted(p.path for p in error.value.problems) == [
        "spec.http[0].route[0].destination.subset",
        "spec.servers[1].tls.serverCertificate",
        "spec.trafficPolicy.tls.caCertificates",
        "spec.trafficPolicy.tls.privateKey",
    ]
