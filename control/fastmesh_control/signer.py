"""A signing certificate with its key and the way up to its root: made here, or given as PEM.

Owns what may sign for the mesh: a valid CA certificate whose key is the one given, and that chains to the
root given with it (RFC 5280 6). It must not know files, phases or who is signed for.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

ROOT_DAYS = 3650
BACKDATE_SECONDS = 60  # sidecars' clocks may lag a little
LONGEST_CHAIN = 8  # certificates from the signing one to the root
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.S)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class BadSigner(Exception):
    """What was given cannot sign for the mesh; the text says why."""


def certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    """Every certificate of a PEM text, in its order."""
    try:
        return [x509.load_pem_x509_certificate(part) for part in _PEM.findall(pem)]
    except ValueError as error:
        raise BadSigner(f"{what} cannot be read: {error}") from None


def pem_of(*certs: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certs)


def key_id(cert: x509.Certificate) -> str:
    """Names a certificate: who renews it with the same key and subject gets another name."""
    return hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).hexdigest()[:16]


def usage(*, ca: bool) -> x509.KeyUsage:
    """Of the authority's certificates, or of leaves."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Signer:
    """What signs. `chain`: `cert` and what is between it and the root, leaf side first; empty when the root
    itself signs. `roots`: the root that the chain ends at, then others that were given with it."""

    key: PrivateKey
    cert: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def id(self) -> str:
        return key_id(self.cert)

    @property
    def root(self) -> x509.Certificate:
        return self.roots[0]

    @property
    def expires(self) -> datetime:
        """When the first certificate on the way up does."""
        return min(c.not_valid_after_utc for c in (self.cert, *self.chain, self.root))

    @property
    def path(self) -> bytes:
        """What goes with a leaf so that a peer who knows the root can check it."""
        return pem_of(*self.chain)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def cert_pem(self) -> bytes:
        """The signing certificate, those between, the roots: what `load` takes."""
        return pem_of(*(self.chain or (self.cert,)), *(r for r in self.roots if r != self.cert))

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        algorithm = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(self.key, algorithm)


def make_root(trust_domain: str) -> Signer:
    """A new self-signed P-256 root. SPIFFE X.509-SVID 2: its URI SAN is the trust domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"fastmesh root {secrets.token_hex(4)}"),
        ]
    )
    domain = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
        .not_valid_after(now + timedelta(days=ROOT_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([domain]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Signer(key, cert, (), (cert,))


def load(key_pem: bytes, cert_pem: bytes, root_pem: bytes = b"", *, now: datetime | None = None) -> Signer:
    """The signer of a key, its certificate first in `cert_pem` (then those between), and roots in `root_pem`
    or at the end of `cert_pem`. BadSigner says what is wrong. `now`: it has to be valid then; None: ever."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise BadSigner(f"the key cannot be read: {error}") from None
    if not isinstance(key, PrivateKey):
        raise BadSigner("the key is none that can sign here: EC, RSA and Ed25519 can")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < 2048:
        raise BadSigner(f"an RSA key of {key.key_size} bits is too short: 2048 at least")
    given = certificates(cert_pem, "the certificate")
    if not given:
        raise BadSigner("there is no certificate")
    cert, rest = given[0], given[1:]
    if cert.public_key() != key.public_key():
        raise BadSigner("the key is not the key of the first certificate")
    roots = [c for c in certificates(root_pem, "the root certificate") if self_signed(c)]
    if root_pem and not roots:
        raise BadSigner("the root certificate is not self-signed")
    roots += [c for c in given if self_signed(c) and c not in roots]
    between = [c for c in rest if not self_signed(c)]
    for root in roots:
        chain = way_up(cert, between, root)
        if chain is not None:
            check_path([*chain, root] if chain else [root], now)
            return Signer(key, cert, tuple(chain), (root, *(r for r in roots if r != root)))
    raise BadSigner("the certificate does not chain to a root that was given with it")


def self_signed(cert: x509.Certificate) -> bool:
    return cert.subject == cert.issuer and issued_by(cert, cert)


def issued_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def way_up(
    cert: x509.Certificate, between: list[x509.Certificate], root: x509.Certificate
) -> list[x509.Certificate] | None:
    """The certificates from this one to below the root; empty: it is the root. None: there is no way."""
    if cert == root:
        return []
    chain = [cert]
    while not issued_by(chain[-1], root):
        above = next((c for c in between if c not in chain and issued_by(chain[-1], c)), None)
        if above is None or len(chain) >= LONGEST_CHAIN:
            return None
        chain.append(above)
    return chain


def check_path(path: list[x509.Certificate], now: datetime | None) -> None:
    """Each is a CA certificate that is valid and may have as many below it as it has."""
    for below, cert in enumerate(path):
        name = cert.subject.rfc4514_string() or f"certificate {cert.serial_number:x}"
        try:
            constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = x509.BasicConstraints(ca=False, path_length=None)
        except ValueError as error:
            raise BadSigner(f"{name}: its extensions cannot be read: {error}") from None
        if not constraints.ca:
            raise BadSigner(f"{name} is not a CA certificate")
        if constraints.path_length is not None and constraints.path_length < below:
            raise BadSigner(f"{name} allows {constraints.path_length} CA certificates below it, not {below}")
        try:
            if not cert.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
                raise BadSigner(f"{name} may not sign certificates (its key usage)")
        except x509.ExtensionNotFound:
            pass
        if now is None:
            continue
        if not cert.not_valid_before_utc <= now:
            raise BadSigner(f"{name} is not valid before {cert.not_valid_before_utc:%Y-%m-%d %H:%M:%S}Z")
        if cert.not_valid_after_utc <= now:
            raise BadSigner(f"{name} has expired on {cert.not_valid_after_utc:%Y-%m-%d %H:%M:%S}Z")
