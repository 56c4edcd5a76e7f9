"""The short-lived helper that makes keys, certificate requests and signatures, so that the agent need not
import `cryptography`.

Run as a program: one JSON object on stdin, one on stdout. Owns nothing; it must not touch files or
sockets. Input: {"spiffe_id": ID} asks for a P-256 key and a request for that identity; {"prove": {"key":
PEM, "nonce": HEX}} asks for a signature over the nonce (and over the request, if one is made) with a key
held already. Output: {"key", "csr" (hex), "signature" (hex)}.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any


def make(order: dict[str, Any]) -> dict[str, str]:
    """What an order asks for."""
    # Here, not above: whoever imports this module from the agent must not load it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made: dict[str, str] = {}
    request = b""
    if "spiffe_id" in order:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(order["spiffe_id"])])
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(names, critical=True)
        )
        request = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made["key"], made["csr"] = pem.decode(), request.hex()
    if "prove" in order:
        held = serialization.load_pem_private_key(order["prove"]["key"].encode(), password=None)
        if not isinstance(held, ec.EllipticCurvePrivateKey):
            raise ValueError("the key held is not an EC key")
        said = bytes.fromhex(order["prove"]["nonce"]) + hashlib.sha256(request).digest()
        made["signature"] = held.sign(said, ec.ECDSA(hashes.SHA256())).hex()
    return made


def main() -> int:
    """Read an order, write what was made; 1 and a line on stderr when it cannot be made."""
    try:
        print(json.dumps(make(json.load(sys.stdin))))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
