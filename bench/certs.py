"""Certificates for one run: a CA, a server and a client, P-256, made with the openssl command.

Owns: the files and the names in them. Must not know: which proxy uses them.
The command and not a library: a bench process that has loaded OpenSSL shares its pages with the proxies,
whose PSS would then read too low.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SERVER_NAME = "backend.bench.local"
SERVER_ID = "spiffe://bench.local/ns/default/sa/backend"
CLIENT_ID = "spiffe://bench.local/ns/default/sa/client"


@dataclass(frozen=True)
class Certs:
    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    server_pem: Path  # certificate and key in one file, as HAProxy wants them
    client_pem: Path


def _openssl(directory: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def _key(directory: Path, name: str) -> None:
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    _openssl(directory, "genpkey", *curve, "-out", f"{name}.key")


def _leaf(directory: Path, name: str, san: str, usage: str) -> None:
    _key(directory, name)
    _openssl(directory, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
    extensions = (
        f"subjectAltName={san}\nextendedKeyUsage={usage}\nkeyUsage=critical,digitalSignature\n"
        "basicConstraints=critical,CA:FALSE\n"
    )
    (directory / f"{name}.ext").write_text(extensions)
    signer = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-sha256"]
    signer += ["-extfile", f"{name}.ext"]
    _openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.crt")
    both = (directory / f"{name}.crt").read_text() + (directory / f"{name}.key").read_text()
    (directory / f"{name}.pem").write_text(both)


def make(directory: Path) -> Certs:
    directory.mkdir(parents=True, exist_ok=True)
    _key(directory, "ca")
    ca = ["-x509", "-key", "ca.key", "-subj", "/CN=bench CA", "-days", "2", "-sha256"]
    ca += ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl(directory, "req", *ca, "-out", "ca.crt")
    _leaf(directory, "server", f"DNS:{SERVER_NAME},URI:{SERVER_ID}", "serverAuth")
    _leaf(directory, "client", f"DNS:client.bench.local,URI:{CLIENT_ID}", "clientAuth")
    return Certs(
        ca=directory / "ca.crt",
        server_cert=directory / "server.crt",
        server_key=directory / "server.key",
        client_cert=directory / "client.crt",
        client_key=directory / "client.key",
        server_pem=directory / "server.pem",
        client_pem=directory / "client.pem",
    )
