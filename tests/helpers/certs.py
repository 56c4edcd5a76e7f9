"""Certificates for tests, made in memory: CAs, leaves with SPIFFE URIs or DNS names, any validity.

ca = Authority()
web = ca.leaf(uris=["spiffe://mesh.local/ns/default/sa/web"])
gateway = ca.leaf(dns=["*.example.com"], client=False)
web.cert, web.key (PEM), ca.pem; web.write(directory) -> paths of files
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
HOUR = datetime.timedelta(hours=1)


def new_key(kind: str = "p256") -> PrivateKey:
    """ "p256", "p384" or "rsa" (2048 bits)."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP384R1() if kind == "p384" else ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Leaf:
    """A certificate with what belongs to it: `cert` is the chain without the root, as a server sends it."""

    cert: bytes
    key: bytes
    certificate: x509.Certificate

    def write(self, directory: Path, name: str = "leaf") -> tuple[Path, Path]:
        """Files of the chain and the key."""
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        cert.write_bytes(self.cert)
        key.write_bytes(self.key)
        key.chmod(0o600)
        return cert, key


class Authority:
    """A CA: self-signed, or an intermediate below another."""

    def __init__(self, name: str = "test root", *, parent: Authority | None = None) -> None:
        self.key = new_key()
        self.name = _name(name)
        self.parent = parent
        self.certificate = self._sign(
            self.name,
            self.key,
            [x509.BasicConstraints(ca=True, path_length=None), _usage(ca=True)],
            -24 * HOUR,
            24 * HOUR,
            by=parent or self,
        )
        self.pem = _pem(self.certificate)

    @property
    def root(self) -> Authority:
        return self.parent.root if self.parent else self

    def intermediate(self, name: str = "test intermediate") -> Authority:
        return Authority(name, parent=self)

    def leaf(
        self,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        name: str = "leaf",
        not_before: datetime.timedelta = -HOUR,
        not_after: datetime.timedelta = HOUR,
        ca: bool = False,
        client: bool = True,
        server: bool = True,
        kind: str = "p256",
    ) -> Leaf:
        """not_before and not_after count from now; ca=True makes a CA certificate where a leaf belongs."""
        key = new_key(kind)
        extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=ca, path_length=None), _usage(ca=ca)]
        sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        sans += [x509.DNSName(host) for host in dns]
        sans += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if sans:
            extensions.append(x509.SubjectAlternativeName(sans))
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH] * client + [ExtendedKeyUsageOID.SERVER_AUTH] * server
        if purposes:
            extensions.append(x509.ExtendedKeyUsage(purposes))
        certificate = self._sign(_name(name), key, extensions, not_before, not_after, by=self)
        chain, issuer = _pem(certificate), self
        while issuer.parent:
            chain += issuer.pem
            issuer = issuer.parent
        return Leaf(chain, key_pem(key), certificate)

    def spiffe(self, path: str = "/ns/default/sa/web", domain: str = "mesh.local") -> Leaf:
        """A workload's certificate."""
        return self.leaf(uris=[f"spiffe://{domain}{path}"])

    @staticmethod
    def _sign(
        name: x509.Name,
        key: PrivateKey,
        extensions: Sequence[x509.ExtensionType],
        not_before: datetime.timedelta,
        not_after: datetime.timedelta,
        *,
        by: Authority,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        issuer = by.key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(by.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + not_before)
            .not_valid_after(now + not_after)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(by.key, hashes.SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
