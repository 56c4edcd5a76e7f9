"""Who may talk to whom: certificates, plaintext, PeerAuthentication, wrong server identities; and who may
join at all. Each refusal is seen by the one who is refused, and counted by the one who refuses."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.certs import Authority, Leaf
from helpers.mesh import Load, Mesh, Sidecar, request, running

HOUR = datetime.timedelta(hours=1)
WEB = "spiffe://cluster.local/ns/default/sa/web"


def peer_authentication(mode: str) -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("identity")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("reviews", app=App("reviews"))


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: Sidecar) -> Sidecar:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    return web


@pytest.fixture(scope="module")
def mesh_ca(mesh: Mesh) -> Authority:
    """The mesh's own authority, to sign what it would never sign."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificates = [
        p for p in mesh.state.rglob("*") if p.is_file() and b"BEGIN CERTIFICATE" in p.read_bytes()
    ]
    keys = [p for p in mesh.state.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    assert certificates and keys, "the authority's files"
    ca = Authority("copied")
    ca.certificate = x509.load_pem_x509_certificate(certificates[0].read_bytes())
    ca.key = load_pem_private_key(keys[0].read_bytes(), None)  # type: ignore[assignment]
    ca.name = ca.certificate.subject
    ca.pem = certificates[0].read_bytes()
    return ca


def dial(
    port: int, leaf: Leaf | None, directory: Path, alpn: Sequence[str] = ("http/1.1",)
) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if leaf is not None:
        cert, key = leaf.write(directory)
        context.load_cert_chain(cert, key)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)


def test_who_has_a_valid_certificate_of_the_mesh_is_served(
    reviews: Sidecar, mesh_ca: Authority, tmp_path: Path
) -> None:
    connection = dial(reviews.inbound, mesh_ca.leaf(uris=[WEB]), tmp_path)
    connection.request("GET", "/valid", headers={"Host": "reviews"})
    assert connection.getresponse().status == 200
    assert reviews.logged(lambda e: e["path"] == "/valid")["peer_uri_san"] == WEB
    connection.close()


@pytest.mark.parametrize(
    ("theirs", "chosen"),
    [
        (["http/1.1", "h2", "fastmesh"], "fastmesh"),
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        ([], None),
    ],
    ids=str,
)
def test_which_protocol_is_agreed_on(
    reviews: Sidecar, mesh_ca: Authority, tmp_path: Path, theirs: list[str], chosen: str | None
) -> None:
    connection = dial(reviews.inbound, mesh_ca.leaf(uris=[WEB]), tmp_path, theirs)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.selected_alpn_protocol() == chosen
    connection.close()


STRANGERS: dict[str, Callable[[Authority], Leaf | None]] = {
    "expired": lambda ca: ca.leaf(uris=[WEB], not_before=-2 * HOUR, not_after=-HOUR),
    "not yet": lambda ca: ca.leaf(uris=[WEB], not_before=HOUR, not_after=2 * HOUR),
    "foreign": lambda ca: Authority("foreign").leaf(uris=[WEB]),
    "foreign by the same name": lambda ca: impostor(ca).leaf(uris=[WEB]),
    "other trust domain": lambda ca: ca.leaf(uris=["spiffe://evil.local/ns/default/sa/web"]),
    "no identity": lambda ca: ca.leaf(dns=["web"]),
    "two identities": lambda ca: ca.leaf(uris=[WEB, WEB.replace("web", "root")]),
    "server's purpose": lambda ca: ca.leaf(uris=[WEB], client=False),
    "none": lambda ca: None,
}


def impostor(ca: Authority) -> Authority:
    other = Authority("other")
    made = Authority.__new__(Authority)
    made.__dict__.update(other.__dict__)
    made.name = ca.name
    return made


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_are_refused_and_counted(
    reviews: Sidecar, mesh_ca: Authority, tmp_path: Path, who: str
) -> None:
    """Not even who offers the protocol that sidecars speak with each other."""
    before, requests = refusals(reviews), reviews.app.requests
    connection = dial(reviews.inbound, STRANGERS[who](mesh_ca), tmp_path, ["fastmesh"])
    # With TLS 1.3 a client has finished before its certificate is looked at: it hears with the first read.
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        connection.request("GET", "/stranger", headers={"Host": "reviews"})
        connection.getresponse()
    connection.close()
    wait_for(lambda: refusals(reviews) == before + 1, what="the refusal counted once")
    assert reviews.app.requests == requests


def refusals(proxy: Sidecar) -> float:
    return proxy.stat("tls_accept_fail")


def test_plaintext_is_refused_where_it_is_strict(reviews: Sidecar) -> None:
    before, requests = reviews.stat("tls_plaintext_refused"), reviews.app.requests
    with socket.create_connection(("127.0.0.1", reviews.inbound), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"200" not in plain.recv(4096)
    wait_for(lambda: reviews.stat("tls_plaintext_refused") == before + 1, what="the refusal counted")
    assert reviews.app.requests == requests


def test_peer_authentication_flips_live(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    def plain() -> int:
        try:
            return request(reviews.inbound, "reviews", "/plain").status
        except (OSError, http.client.HTTPException):
            return 0

    assert plain() == 0
    with Load(web.outbound, "reviews", clients=3) as load:
        for _ in range(3):
            mesh.cli("apply", "-f", mesh.file(peer_authentication("PERMISSIVE")), "--wait")
            assert plain() == 200
            mesh.cli("apply", "-f", mesh.file(peer_authentication("STRICT")), "--wait")
            assert plain() == 0
        # What the mesh's own sidecars send is mTLS in both modes.
        mesh.apply(peer_authentication("PERMISSIVE"))
        web.get("reviews", "/permissive")
        assert reviews.logged(lambda e: e["path"] == "/permissive")["peer_uri_san"] == WEB
        load.more(20)
    assert load.bad == []
    mesh.delete("peerauthentication", "default")
    assert plain() == 0


WRONG = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: impostor}}
spec:
  hosts: [impostor.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  subjectAltNames: ["{expected}"]
  endpoints:
  - address: 127.0.0.1
    ports: {{http: {port}}}
    labels: {{security.istio.io/tlsMode: istio}}
    serviceAccount: {account}
"""


def test_a_server_with_another_identity_gets_nothing(mesh: Mesh, web: Sidecar, reviews: Sidecar) -> None:
    """reviews' sidecar answers where payments' should: the caller gets 503, nothing goes out in plain."""
    expected = "spiffe://cluster.local/ns/default/sa/payments"
    mesh.apply(WRONG.format(expected=expected, account="payments", port=reviews.inbound))
    failed, identity = web.stat("tls_connect_fail"), web.stat("tls_peer_identity")
    refused, requests = reviews.stat("tls_plaintext_refused"), reviews.app.requests
    assert web.get("impostor.local", "/secret").status == 503
    line = web.logged(lambda e: e["path"] == "/secret")
    assert "UF" in line["response_flags"].split(",")
    assert web.stat("tls_connect_fail") > failed and web.stat("tls_peer_identity") > identity
    assert reviews.app.requests == requests
    assert reviews.stat("tls_plaintext_refused") == refused
    # The right one is believed, by the same way.
    right = expected.replace("payments", "reviews")
    mesh.apply(WRONG.format(expected=right, account="reviews", port=reviews.inbound))
    assert web.get("impostor.local", "/open").status == 200
    mesh.delete("serviceentry", "impostor")


MIXED = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: mixed}}
spec:
  hosts: [mixed.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {app}}}, labels: {labels}, serviceAccount: reviews}}
  - address: 127.0.0.1
    ports: {{http: {inbound}}}
    labels: {{security.istio.io/tlsMode: istio}}
    serviceAccount: reviews
"""


def test_a_kept_plaintext_connection_is_not_used_where_mtls_is_wanted_now(
    mesh: Mesh, web: Sidecar, reviews: Sidecar
) -> None:
    plain = App("plain")
    try:
        mesh.apply(MIXED.format(app=plain.port, labels="{}", inbound=reviews.inbound))
        with Load(web.outbound, "mixed.local") as load:
            wait_for(lambda: set(load.good) == {"plain", "reviews"}, what="both to answer")
        assert load.bad == []
        labels = "{security.istio.io/tlsMode: istio}"
        mesh.apply(MIXED.format(app=plain.port, labels=labels, inbound=reviews.inbound))
        before = plain.requests
        answers = [web.get("mixed.local") for _ in range(20)]
        assert plain.requests == before, "it speaks no TLS, so nothing reaches it"
        assert {a.headers.get("x-app") for a in answers if a.status == 200} == {"reviews"}
        assert {a.status for a in answers} <= {200, 503}
        mesh.delete("serviceentry", "mixed")
    finally:
        plain.close()


# --- joining


def failed_start(mesh: Mesh, bundle: Path, service: str = "reviews", timeout: float = 20) -> tuple[int, str]:
    sidecar = mesh.sidecar(service, bundle=bundle, ready=False)
    status = sidecar.process.wait(timeout)
    assert "Traceback" not in sidecar.process.stderr
    return status, sidecar.process.stderr


def changed(bundle: Path, **changes: object) -> Path:
    bundle.write_text(json.dumps({**json.loads(bundle.read_text()), **changes}))
    return bundle


def test_a_wrong_token_ends_with_5(mesh: Mesh) -> None:
    bundle = mesh.bundle("reviews")
    token = json.loads(bundle.read_text())["token"]
    status, said = failed_start(mesh, changed(bundle, token=token[:-4] + "AAAA"))
    assert status == 5 and "join refused" in said and "fastmesh token create" in said


def test_an_expired_and_a_removed_token_end_with_5(mesh: Mesh) -> None:
    expired = mesh.bundle("reviews", ttl=1)
    removed = mesh.bundle("reviews")
    token = json.loads(removed.read_text())["token"].partition(".")[0].removeprefix("fmj_")
    mesh.cli("token", "delete", token)
    status, said = failed_start(mesh, removed)
    assert status == 5 and "join refused" in said
    wait_for(lambda: any(t["expired"] for t in mesh.client.items("tokens")), what="the token's end")
    status, said = failed_start(mesh, expired)
    assert status == 5 and "expired" in said


def test_a_token_is_for_one_service(mesh: Mesh) -> None:
    bundle = mesh.bundle("reviews")
    status, said = failed_start(mesh, bundle, service="payments")
    assert status == 2 and "'reviews'" in said and "'payments'" in said
    # And who changes the bundle is refused by the control plane.
    spiffe = "spiffe://cluster.local/ns/default/sa/payments"
    status, said = failed_start(
        mesh, changed(bundle, service="payments", spiffe_id=spiffe), service="payments"
    )
    assert status == 5 and "join refused" in said
    assert mesh.listed("payments") == set()


@pytest.mark.parametrize("text", ["", "{}", "[]", "\x00", '{"control": 5}'])
def test_what_is_no_bundle_ends_with_2(mesh: Mesh, tmp_path: Path, text: str) -> None:
    path = tmp_path / "join.json"
    path.write_text(text)
    status, said = failed_start(mesh, path)
    assert status == 2 and f"{path}: not a join bundle" in said


def test_the_key_of_another_control_plane_is_told_and_nothing_is_served(mesh: Mesh) -> None:
    """It may come back with the right key (a wrong address, a restore): it waits, says why, is not ready."""
    import zmq

    public, _ = zmq.curve_keypair()
    bundle = mesh.bundle("reviews")
    sidecar = mesh.sidecar("reviews", bundle=changed(bundle, server_key=public.decode()), ready=False)
    sidecar.process.wait_output("handshake", 20)
    status, text = wait_for(lambda: sidecar.view("/ready"), what="the admin endpoint")
    assert status == 503 and "no certificate yet" in text
    with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
        assert request(sidecar.inbound, "reviews", timeout=3).status == 200
    assert sidecar.process.stop() == 0


@pytest.mark.parametrize("key", ["", "short", "~" * 40, 5])
def test_a_key_that_is_none_ends_with_2(mesh: Mesh, key: object) -> None:
    status, said = failed_start(mesh, changed(mesh.bundle("reviews"), server_key=key))
    assert status == 2 and "server_key" in said


def test_two_replicas_have_one_identity_and_both_serve(mesh: Mesh, web: Sidecar) -> None:
    bundle = mesh.bundle("ratings")
    replicas = [mesh.sidecar("ratings", app=App(name), bundle=bundle) for name in ("one", "two")]
    mesh.reaches(web, "ratings", *replicas)
    with Load(web.outbound, "ratings") as load:
        wait_for(lambda: set(load.good) == {"one", "two"}, what="both to answer")
    assert load.bad == []
    assert replicas[0].serials() & replicas[1].serials() == set(), "a certificate each"
