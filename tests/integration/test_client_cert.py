"""x-forwarded-client-cert at an application: who called, as Istio's sidecars say it (APPEND_FORWARD)."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator

import pytest

from helpers.app import App
from helpers.mesh import Mesh, Sidecar, request, running

HEADER = "x-forwarded-client-cert"
PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  mtls: {mode: PERMISSIVE}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("xfcc")) as mesh:
        mesh.apply(PERMISSIVE)
        yield mesh


@pytest.fixture(scope="module")
def web(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("web", app=App("web"))


@pytest.fixture(scope="module")
def reviews(mesh: Mesh, web: Sidecar) -> Sidecar:
    made = mesh.sidecar("reviews", app=App("reviews"))
    mesh.reaches(web, "reviews", made)
    return made


def leaf_hash(sidecar: Sidecar) -> str:
    """SHA-256 of the sidecar's own certificate, from the file that it keeps."""
    kept = (sidecar.state / "identity").read_bytes()
    found = re.search(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", kept, re.S)
    assert found
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0].decode())).hexdigest()


def expected(caller: Sidecar) -> str:
    base, name = "spiffe://cluster.local/ns/default/sa", caller.service
    return f'By={base}/reviews;Hash={leaf_hash(caller)};Subject="CN={name}";URI={base}/{name}'


def test_the_verified_caller_is_named(web: Sidecar, reviews: Sidecar) -> None:
    for _ in range(3):
        assert web.get("reviews").json["headers"][HEADER] == expected(web)


def test_what_the_caller_was_told_comes_before(web: Sidecar, reviews: Sidecar) -> None:
    before = 'By=a;Hash=00;Subject="CN=x,O=y";URI=b'
    got = web.get("reviews", x_forwarded_client_cert=before).json["headers"][HEADER]
    assert got == f"{before},{expected(web)}"


def test_nothing_is_believed_without_a_certificate(reviews: Sidecar) -> None:
    answer = request(reviews.inbound, "reviews", x_forwarded_client_cert="By=a;URI=spiffe://cluster.local/x")
    assert answer.status == 200
    assert HEADER not in answer.json["headers"]
