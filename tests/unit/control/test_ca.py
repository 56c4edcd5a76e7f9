"""The authority: what it signs, what it refuses, what proves an identity."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fastmesh.agent.keygen import make
from fastmesh_control.ca import NONCE_SECONDS, Authority, Refused
from fastmesh_control.store import StateError

ID = "spiffe://cluster.local/ns/default/sa/reviews"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "cluster.local")


def request(names, key=None, subject=(), curve=None):
    """A CSR with these SANs, in DER."""
    key = key or ec.generate_private_key(curve or ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(list(subject)))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def uri(value):
    return x509.UniformResourceIdentifier(value)


def sign(authority, csr):
    return authority.sign(csr, "default", "reviews", "reviews-service")


def test_a_leaf_says_who_its_holder_is_and_nothing_more(authority):
    made = make({"spiffe_id": ID})
    leaf = sign(authority, bytes.fromhex(made["csr"]))
    cert = x509.load_pem_x509_certificate(leaf.chain)
    cert.verify_directly_issued_by(authority.keyring.active.cert)
    key = serialization.load_pem_private_key(made["key"].encode(), None)
    assert cert.public_key() == key.public_key()
    san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(san) == [uri(ID)]
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    extended = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    life = cert.not_valid_after_utc.timestamp() - leaf.issued
    assert abs(life - 24 * 3600) < 2 and leaf.not_before < leaf.issued


def test_the_root_is_made_once_and_kept(tmp_path):
    first = Authority(tmp_path, "cluster.local")
    again = Authority(tmp_path, "cluster.local")
    assert again.roots_pem == first.roots_pem
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    constraints = first.keyring.active.root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca and constraints.path_length == 0
    years = (first.keyring.active.expires.timestamp() - time.time()) / (365.25 * 86400)
    assert 9.9 < years < 10.1


@pytest.mark.parametrize("spoil", ["missing", "garbage", "other"])
def test_a_root_that_cannot_be_used_is_told_of_and_not_replaced(tmp_path, spoil):
    Authority(tmp_path, "cluster.local")
    if spoil == "missing":
        (tmp_path / "ca.key").unlink()
    elif spoil == "garbage":
        (tmp_path / "ca.crt").write_text("garbage")
    else:
        (tmp_path / "sub").mkdir()
        Authority(tmp_path / "sub", "cluster.local")
        (tmp_path / "ca.key").write_bytes((tmp_path / "sub/ca.key").read_bytes())
    before = {p.name: p.read_bytes() for p in tmp_path.glob("ca.*")}
    with pytest.raises(StateError, match=r"ca\.(key|crt)"):
        Authority(tmp_path, "cluster.local")
    assert {p.name: p.read_bytes() for p in tmp_path.glob("ca.*")} == before


@pytest.mark.parametrize(
    ("csr", "says"),
    [
        (lambda: b"garbage", "cannot be read"),
        (lambda: request([uri(ID)])[:-4], "cannot be read"),
        (lambda: request(None), "one SPIFFE ID"),
        (lambda: request([]), "one SPIFFE ID"),
        (lambda: request([uri(ID), uri(ID + "x")]), "one SPIFFE ID"),
        (lambda: request([uri(ID), x509.DNSName("reviews")]), "one SPIFFE ID"),
        (lambda: request([x509.DNSName("reviews")]), "one SPIFFE ID"),
        (lambda: request([uri(ID.replace("reviews", "ratings"))]), "asks for"),
        (lambda: request([uri(ID.replace("default", "other"))]), "asks for"),
        (lambda: request([uri(ID.replace("cluster.local", "evil.example"))]), "asks for"),
        (lambda: request([uri(ID)], rsa.generate_private_key(65537, 2048)), "not P-256"),
        (lambda: request([uri(ID)], ed25519.Ed25519PrivateKey.generate()), "not P-256"),
        (lambda: request([uri(ID)], curve=ec.SECP384R1()), "not P-256"),
    ],
)
def test_what_is_not_signed(authority, csr, says):
    with pytest.raises(Refused, match=says):
        sign(authority, csr())


def test_a_request_needs_its_keys_own_signature(authority):
    csr = bytearray(request([uri(ID)]))
    csr[-3] ^= 1
    with pytest.raises(Refused):
        sign(authority, bytes(csr))


def test_the_authoritys_own_key_is_not_certified_again(authority):
    with pytest.raises(Refused, match="own key"):
        sign(authority, request([uri(ID)], authority.keyring.active.key))


@pytest.fixture
def held(authority):
    """A key and its certificate."""
    made = make({"spiffe_id": ID})
    return made["key"], sign(authority, bytes.fromhex(made["csr"]))


def proof(key, nonce):
    return bytes.fromhex(make({"prove": {"key": key, "nonce": nonce.hex()}})["signature"])


def test_a_certificate_proves_its_holder(authority, held):
    key, leaf = held
    nonce = authority.nonce("asker")
    who = authority.prove(leaf.chain, nonce, proof(key, nonce), "asker")
    assert (who.namespace, who.service_account, who.service) == ("default", "reviews", "reviews-service")
    assert who.serial == leaf.serial


def test_a_renewal_binds_the_request_to_the_proof(authority, held):
    key, leaf = held
    nonce = authority.nonce("asker")
    made = make({"spiffe_id": ID, "prove": {"key": key, "nonce": nonce.hex()}})
    csr, signature = bytes.fromhex(made["csr"]), bytes.fromhex(made["signature"])
    authority.prove(leaf.chain, nonce, signature, "asker", csr)
    with pytest.raises(Refused, match="signature"):
        authority.prove(leaf.chain, nonce, signature, "asker", request([uri(ID)]))


def test_what_proves_nothing(authority, held, tmp_path):
    key, leaf = held
    nonce = authority.nonce("asker")
    good = proof(key, nonce)
    with pytest.raises(Refused, match="not one of ours"):
        authority.prove(leaf.chain, nonce, good, "another")
    with pytest.raises(Refused, match="not one of ours"):
        authority.prove(leaf.chain, b"x" * 48, good, "asker")
    with pytest.raises(Refused, match="signature"):
        authority.prove(leaf.chain, nonce, good[:-1], "asker")
    with pytest.raises(Refused, match="signature"):
        authority.prove(leaf.chain, nonce, proof(make({"spiffe_id": ID})["key"], nonce), "asker")
    with pytest.raises(Refused, match="certificate"):
        authority.prove(b"garbage", nonce, good, "asker")
    (tmp_path / "other").mkdir()
    foreign = sign(Authority(tmp_path / "other", "cluster.local"), request([uri(ID)]))
    with pytest.raises(Refused, match="certificate"):
        authority.prove(foreign.chain, nonce, good, "asker")
    late = authority.nonce("asker", time.time() - NONCE_SECONDS - 1)
    with pytest.raises(Refused, match="expired"):
        authority.prove(leaf.chain, late, proof(key, late), "asker")


def test_the_root_itself_is_no_workload(authority):
    nonce = authority.nonce("asker")
    with pytest.raises(Refused, match=r"does not name a workload|not one of ours"):
        authority.prove(authority.roots_pem, nonce, b"", "asker")


def test_an_expired_certificate_proves_only_within_the_grace(tmp_path):
    authority = Authority(tmp_path, "cluster.local", leaf_seconds=-5)
    made = make({"spiffe_id": ID})
    leaf = sign(authority, bytes.fromhex(made["csr"]))
    nonce = authority.nonce("asker")
    signature = proof(made["key"], nonce)
    with pytest.raises(Refused, match="expired"):
        authority.prove(leaf.chain, nonce, signature, "asker")
    assert authority.prove(leaf.chain, nonce, signature, "asker", grace=60).service_account == "reviews"


@pytest.mark.parametrize("name", ["", "Cluster", "a/b", "a b", "-a", "a" * 300])
def test_trust_domains_are_names(tmp_path, name):
    with pytest.raises(Refused, match="trust domain"):
        Authority(tmp_path, name)
