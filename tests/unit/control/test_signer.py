"""What may sign for the mesh, and what is refused with which reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from fastmesh_control.signer import BadSigner, key_id, load, make_root, pem_of, usage

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Ca:
    """A CA certificate by itself or by another."""

    def __init__(self, name, above=None, *, key=None, ca=True, most=None, sign=True, begin=-DAY, end=DAY):
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed_with = (above or self).key
        algorithm = None if isinstance(signed_with, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        self.cert = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name((above or self).name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + begin)
            .not_valid_after(NOW + end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=most), critical=True)
            .add_extension(usage(ca=sign), critical=True)
            .sign(signed_with, algorithm)
        )
        self.pem = pem_of(self.cert)

    @property
    def key_pem(self):
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


ROOT = Ca("root")
MIDDLE = Ca("middle", ROOT)
LOW = Ca("low", MIDDLE)


def test_a_root_of_our_own():
    made = make_root("cluster.local")
    again = load(made.key_pem(), made.cert_pem(), now=NOW + DAY)
    assert again.id == made.id == key_id(made.cert)
    assert again.roots == (made.cert,) and again.chain == () and again.path == b""


@pytest.mark.parametrize(
    ("signer", "cert", "root", "path"),
    [
        (MIDDLE, MIDDLE.pem, ROOT.pem, [MIDDLE]),
        (MIDDLE, MIDDLE.pem + ROOT.pem, b"", [MIDDLE]),
        (LOW, LOW.pem + MIDDLE.pem, ROOT.pem, [LOW, MIDDLE]),
        (LOW, LOW.pem + ROOT.pem + MIDDLE.pem, b"", [LOW, MIDDLE]),
        # Istio's cert-chain.pem repeats the signing certificate; a bundle of several roots
        (LOW, LOW.pem + LOW.pem + MIDDLE.pem, Ca("other").pem + ROOT.pem, [LOW, MIDDLE]),
        (ROOT, ROOT.pem, ROOT.pem, []),
    ],
)
def test_the_way_up_to_the_root_is_found(signer, cert, root, path):
    found = load(signer.key_pem, cert, root, now=NOW)
    assert found.cert == signer.cert and found.root == ROOT.cert
    assert list(found.chain) == [c.cert for c in path]
    again = load(found.key_pem(), found.cert_pem(), now=NOW)
    assert (again.chain, again.roots) == (found.chain, found.roots)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_keys_of_other_kinds_sign_too(key):
    ca = Ca("ca", key=key)
    signer = load(ca.key_pem, ca.pem, now=NOW)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(ROOT.name)
        .issuer_name(signer.cert.subject)
        .public_key(ROOT.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    signer.sign(leaf).verify_directly_issued_by(signer.cert)


LEAF = Ca("leaf", ROOT, ca=False, sign=False)
SMALL = Ca("small", key=rsa.generate_private_key(65537, 1024))
NARROW = Ca("narrow", most=0)


@pytest.mark.parametrize(
    ("key", "cert", "root", "says"),
    [
        (b"", ROOT.pem, b"", "the key cannot be read"),
        (b"x", ROOT.pem, b"", "the key cannot be read"),
        (ROOT.key_pem, b"", b"", "no certificate"),
        (ROOT.key_pem, b"x", b"", "no certificate"),
        (ROOT.key_pem, ROOT.pem.replace(b"MII", b"NII", 1), b"", "cannot be read"),
        (MIDDLE.key_pem, ROOT.pem, b"", "not the key of"),
        (MIDDLE.key_pem, MIDDLE.pem, b"", "does not chain"),
        (MIDDLE.key_pem, MIDDLE.pem, Ca("root").pem, "does not chain"),
        (MIDDLE.key_pem, MIDDLE.pem, MIDDLE.pem, "not self-signed"),
        (LOW.key_pem, LOW.pem, ROOT.pem, "does not chain"),
        (LEAF.key_pem, LEAF.pem, ROOT.pem, "not a CA certificate"),
        (SMALL.key_pem, SMALL.pem, b"", "1024 bits"),
        *(
            (ca.key_pem, ca.pem, above.pem, says)
            for above, options, says in [
                (ROOT, {"end": -DAY / 2}, "has expired"),
                (ROOT, {"begin": DAY / 2}, "is not valid before"),
                (ROOT, {"sign": False}, "may not sign"),
                (NARROW, {}, "allows 0 CA certificates below it, not 1"),
            ]
            for ca in [Ca("ca", above, **options)]
        ),
    ],
)
def test_what_cannot_sign(key, cert, root, says):
    with pytest.raises(BadSigner, match=says):
        load(key, cert, root, now=NOW)


def test_a_key_that_signs_no_certificates_here():
    key = dsa.generate_private_key(1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(BadSigner, match="EC, RSA and Ed25519"):
        load(key, ROOT.pem)


def test_what_is_kept_is_read_also_when_its_time_is_over():
    old = Ca("old", end=-DAY / 2)
    assert load(old.key_pem, old.pem).cert == old.cert


def test_a_circle_has_an_end():
    """Two that have signed each other."""
    one = Ca("one")
    two = Ca("two", one)
    back = Ca("one", two, key=one.key)
    with pytest.raises(BadSigner, match="does not chain"):
        load(two.key_pem, two.pem + back.pem, ROOT.pem)
