"""The mesh's certificate authority: leaves signed for checked requests.

Owns every rule of what is signed and of what proves an identity. Which certificate signs, and which roots are
trusted, is the keyring's. It must not know tokens, sessions or files. SPIFFE X.509-SVID: the URI SAN is the
identity, and the only SAN.
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
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastmesh_control.keyring import Keyring
from fastmesh_control.signer import BACKDATE_SECONDS, Signer, issued_by, key_id, pem_of, usage

LEAF_SECONDS = 24 * 3600.0
NONCE_SECONDS = 120.0  # how long a challenge can be answered
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.S)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Refused(Exception):
    """A request that the authority does not grant; the text may be shown to the asker."""


@dataclass(frozen=True)
class Leaf:
    chain: bytes  # PEM: the leaf, and what is between it and the root
    serial: str
    issuer: str  # of the signer (signer.key_id)
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
    issuer: str
    not_after: float


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def check_name(value: str, what: str) -> str:
    """A DNS-like name as used in identities; Refused names what was wrong."""
    if not _NAME.fullmatch(value):
        raise Refused(f"{what} {value!r:.80} is not a name of lower-case letters, digits, '-' and '.'")
    return value


class Authority:
    """What is signed with the keyring's signer."""

    def __init__(
        self,
        directory: Path,
        trust_domain: str,
        leaf_seconds: float = LEAF_SECONDS,
        given: Signer | None = None,
    ) -> None:
        self.trust_domain = check_name(trust_domain, "trust domain")
        self.leaf_seconds = leaf_seconds
        self._nonce_key = secrets.token_bytes(32)
        self.keyring = Keyring(directory, trust_domain, given)

    @property
    def roots_pem(self) -> bytes:
        """What sidecars are to trust now."""
        return self.keyring.roots_pem()

    def check_identity(self, identity: str) -> str:
        """A SPIFFE ID that this authority could sign; Refused says what is wrong."""
        prefix = f"spiffe://{self.trust_domain}/ns/"
        parts = identity.removeprefix(prefix).split("/")
        if not identity.startswith(prefix) or len(parts) != 3 or parts[1] != "sa":
            raise Refused(f"{identity!r:.200} is no identity of this mesh: {prefix}NAMESPACE/sa/ACCOUNT")
        check_name(parts[0], "namespace")
        check_name(parts[2], "service account")
        return identity

    def sign(self, csr_der: bytes, namespace: str, service_account: str, service: str) -> Leaf:
        """A leaf for a CSR that asks for exactly the identity that its sender is entitled to."""
        wanted = spiffe_id(self.trust_domain, namespace, service_account)
        key = self._check_csr(csr_der, wanted)
        now = datetime.now(UTC)
        signer = self.keyring.active
        until = min(now + timedelta(seconds=self.leaf_seconds), signer.expires)
        if until <= now and self.leaf_seconds > 0:
            raise Refused(f"the mesh's signing certificate has expired on {until:%Y-%m-%d %H:%M:%S}Z")
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
        builder = (
            x509.CertificateBuilder()
            # The subject carries the service, so that a proof of identity says which endpoint list its holder
            # may join.
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service[:64])]))
            .issuer_name(signer.cert.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(issuer_key, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(wanted)]), critical=False
            )
        )
        cert = signer.sign(builder)
        return Leaf(
            pem_of(cert) + signer.path,
            f"{cert.serial_number:x}",
            signer.id,
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
        if key == self.keyring.active.cert.public_key():
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
            issuer = next((i for i in self.keyring.issuers() if issued_by(cert, i)), None)
            if issuer is None:
                raise ValueError("nobody who signs here has signed it")
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
            key_id(issuer),
            cert.not_valid_after_utc.timestamp(),
        )
