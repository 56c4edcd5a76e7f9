"""The mesh's certificate authority: a self-signed P-256 root made on first start, leaves signed for checked
requests.

Owns the root key and every rule of what is signed and of what proves an identity. It must not know tokens,
sessions or storage other than its two files. SPIFFE X.509-SVID: the URI SAN is the identity, and the only
SAN.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastmesh_control.files import read_secret, write_secret
from fastmesh_control.store import StateError

ROOT_DAYS = 3650
LEAF_SECONDS = 24 * 3600.0
BACKDATE_SECONDS = 60  # of leaves: sidecars' clocks may lag a little
NONCE_SECONDS = 120.0  # how long a challenge can be answered
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.S)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Refused(Exception):
    """A request that the authority does not grant; the text may be shown to the asker."""


@dataclass(frozen=True)
class Leaf:
    chain: bytes  # PEM
    serial: str
    issued: int
    not_before: int
    not_after: int


@dataclass(frozen=True)
class Identity:
    """What a certificate of ours says of its holder."""

    namespace: str
    service_account: str
    service: str
    serial: str
    not_after: float


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def check_name(value: str, what: str) -> str:
    """A DNS-like name as used in identities; Refused names what was wrong."""
    if not _NAME.fullmatch(value):
        raise Refused(f"{what} {value!r:.80} is not a name of lower-case letters, digits, '-' and '.'")
    return value


class Authority:
    """The root and what it signs."""

    def __init__(self, directory: Path, trust_domain: str, leaf_seconds: float = LEAF_SECONDS) -> None:
        self.trust_domain = check_name(trust_domain, "trust domain")
        self.leaf_seconds = leaf_seconds
        self._nonce_key = secrets.token_bytes(32)
        key_pem, cert_pem = read_secret(directory / "ca.key"), read_secret(directory / "ca.crt")
        if key_pem is None and cert_pem is None:
            key_pem, cert_pem = self._make_root()
            write_secret(directory / "ca.key", key_pem)
            write_secret(directory / "ca.crt", cert_pem)
        if key_pem is None or cert_pem is None:
            raise StateError(
                f"of ca.key and ca.crt in {directory} one is missing: "
                "restore it, or remove both to make a new root"
            )
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            self.root = x509.load_pem_x509_certificate(cert_pem)
        except ValueError as error:
            raise StateError(f"ca.key or ca.crt in {directory} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.root.public_key():
            raise StateError(f"ca.key in {directory} is not the key of ca.crt")
        self._key = key
        self.roots_pem = cert_pem

    def _make_root(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.trust_domain[:64]),
                x509.NameAttribute(NameOID.COMMON_NAME, f"fastmesh root {secrets.token_hex(4)}"),
            ]
        )
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
            .not_valid_after(now + timedelta(days=ROOT_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")]
                ),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem, cert.public_bytes(serialization.Encoding.PEM)

    @property
    def root_expires(self) -> float:
        return self.root.not_valid_after_utc.timestamp()

    def sign(self, csr_der: bytes, namespace: str, service_account: str, service: str) -> Leaf:
        """A leaf for a CSR that asks for exactly the identity that its sender is entitled to."""
        wanted = spiffe_id(self.trust_domain, namespace, service_account)
        key = self._check_csr(csr_der, wanted)
        now = datetime.now(UTC)
        until = min(now + timedelta(seconds=self.leaf_seconds), self.root.not_valid_after_utc)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        cert = (
            x509.CertificateBuilder()
            # The subject carries the service, so that a proof of identity says which endpoint list its holder
            # may join.
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service[:64])]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(issuer_key, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(wanted)]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            cert.public_bytes(serialization.Encoding.PEM),
            f"{cert.serial_number:x}",
            int(now.timestamp()),
            int(cert.not_valid_before_utc.timestamp()),
            int(cert.not_valid_after_utc.timestamp()),
        )

    def _check_csr(self, der: bytes, wanted: str) -> ec.EllipticCurvePublicKey:
        try:
            csr = x509.load_der_x509_csr(der)
            key = csr.public_key()
        except Exception as error:  # cryptography raises more than ValueError on hostile input
            raise Refused(f"the certificate request cannot be read: {error!s:.200}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Refused("the certificate request's key is not P-256")
        if not csr.is_signature_valid:
            raise Refused("the certificate request is not signed by its own key")
        if key == self._key.public_key():
            raise Refused("the certificate request carries the authority's own key")
        try:
            names = list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (x509.ExtensionNotFound, ValueError):
            names = []
        if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
            raise Refused("the certificate request must name one SPIFFE ID and nothing else")
        if names[0].value != wanted:
            raise Refused(
                f"the certificate request asks for {names[0].value!r:.200}; its sender is {wanted!r}"
            )
        return key

    def nonce(self, asker: str, now: float | None = None) -> bytes:
        """A challenge for one asker. It carries its time and our MAC, so that none has to be remembered."""
        stamp = struct.pack(">d", time.time() if now is None else now) + secrets.token_bytes(8)
        return stamp + self._mac(stamp, asker)

    def _mac(self, stamp: bytes, asker: str) -> bytes:
        return hmac.digest(self._nonce_key, stamp + asker.encode(), hashlib.sha256)

    def prove(
        self, chain: bytes, nonce: bytes, signature: bytes, asker: str, bound: bytes = b"", grace: float = 0.0
    ) -> Identity:
        """Who holds a certificate of ours, shown by a signature over our challenge and what is bound to it.

        Refused if it does not hold. `grace`: for how many seconds an expired certificate still proves it."""
        now = time.time()
        stamp = nonce[:16]
        if len(nonce) != 48 or not hmac.compare_digest(nonce[16:], self._mac(stamp, asker)):
            raise Refused("the challenge is not one of ours")
        if not -1 <= now - struct.unpack(">d", stamp[:8])[0] <= NONCE_SECONDS:
            raise Refused("the challenge has expired")
        first = _PEM.search(chain)
        try:
            cert = x509.load_pem_x509_certificate(first[0] if first else b"")
            cert.verify_directly_issued_by(self.root)
            key = cert.public_key()
            uris = cert.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value.get_values_for_type(x509.UniformResourceIdentifier)
            names = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except Exception as error:  # see _check_csr
            raise Refused(f"the certificate is not one of ours: {error!s:.200}") from None
        if not cert.not_valid_before_utc.timestamp() <= now <= cert.not_valid_after_utc.timestamp() + grace:
            raise Refused("the certificate has expired")
        prefix = f"spiffe://{self.trust_domain}/ns/"
        parts = uris[0][len(prefix) :].split("/") if len(uris) == 1 and uris[0].startswith(prefix) else []
        if len(parts) != 3 or parts[1] != "sa" or not names or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Refused("the certificate does not name a workload of this mesh")
        try:
            key.verify(signature, nonce + hashlib.sha256(bound).digest(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Refused("the signature over the challenge is wrong") from None
        return Identity(
            parts[0],
            parts[2],
            str(names[0].value),
            f"{cert.serial_number:x}",
            cert.not_valid_after_utc.timestamp(),
        )
