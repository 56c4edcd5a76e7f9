"""The PEM files that a file-based config names (compile): read, checked, key against certificate. Only for
the short-lived helper process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fastmesh.model.problems import Path as FieldPath
from fastmesh.model.problems import Problem
from fastmesh.model.schema import Key, Resource

MAX_PEM: Final = 1024 * 1024
"""A certificate bundle of all public roots takes 220 KB."""


class TlsFiles:
    """Reads each file once; what is wrong is reported at the field that names it."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self.folder = folder
        self.problems = problems
        self._read: dict[str, bytes | str] = {}
        self._told: set[tuple[Key, FieldPath]] = set()

    def pair(
        self, r: Resource, at: FieldPath, tls: dict[str, Any], cert: str, key: str
    ) -> tuple[bytes, bytes]:
        """(certificate chain, private key) in PEM; empty bytes where there was a problem."""
        cert_pem = self._pem(r, (*at, cert), tls.get(cert, ""))
        key_pem = self._pem(r, (*at, key), tls.get(key, ""))
        leaf = self._certificates(r, (*at, cert), cert_pem) if cert_pem else None
        private = self._private_key(r, (*at, key), key_pem) if key_pem else None
        if leaf and private is not None and leaf[0].public_key() != private.public_key():
            what = f"the key in {tls[key]} does not belong to the certificate in {tls[cert]}"
            self._tell(r, (*at, key), what, "the own certificate must come first in the file")
        if leaf and leaf[0].not_valid_after_utc < datetime.now(UTC):
            when = leaf[0].not_valid_after_utc
            self._tell(
                r, (*at, cert), f"{tls[cert]}: the certificate expired on {when:%Y-%m-%d}", warning=True
            )
        return cert_pem, key_pem

    def bundle(self, r: Resource, at: FieldPath, tls: dict[str, Any], field: str) -> bytes:
        """CA certificates in PEM."""
        pem = self._pem(r, (*at, field), tls.get(field, ""))
        if pem:
            self._certificates(r, (*at, field), pem)
        return pem

    def _tell(self, r: Resource, at: FieldPath, what: str, hint: str = "", *, warning: bool = False) -> None:
        """A field is named once, however many clusters use it."""
        if (r.key, at) not in self._told:
            self._told.add((r.key, at))
            self.problems.append(r.problem(at, what, hint, warning=warning))

    def _pem(self, r: Resource, at: FieldPath, name: str) -> bytes:
        if not name:
            return b""
        if name not in self._read:
            self._read[name] = self._load(name)
        found = self._read[name]
        if isinstance(found, str):
            hint = "" if Path(name).is_absolute() else f"relative names are sought in {self.folder}"
            self._tell(r, at, f"{name}: {found}", hint)
            return b""
        return found

    def _load(self, name: str) -> bytes | str:
        """The content, or what is wrong."""
        path = self.folder / name
        try:
            if not path.exists():
                return "no such file"
            if not path.is_file():
                return "is not a file"
            with path.open("rb") as f:
                raw = f.read(MAX_PEM + 1)
        except (OSError, ValueError) as e:
            return f"cannot be read: {getattr(e, 'strerror', None) or e}"
        if len(raw) > MAX_PEM:
            return f"larger than {MAX_PEM // 1024} KiB"
        if b"-----BEGIN " not in raw:
            return "is not PEM"
        return raw

    def _certificates(self, r: Resource, at: FieldPath, pem: bytes) -> list[Any]:
        from cryptography import x509

        try:
            found: list[Any] = list(x509.load_pem_x509_certificates(pem))
        except ValueError as e:
            self._tell(r, at, f"holds no valid certificate: {e}")
            return []
        return found

    def _private_key(self, r: Resource, at: FieldPath, pem: bytes) -> Any:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            return load_pem_private_key(pem, None)
        except TypeError:
            self._tell(r, at, "is encrypted", "store the key without a passphrase, mode 0600")
        except (ValueError, UnsupportedAlgorithm) as e:
            self._tell(r, at, f"holds no valid private key: {e}")
        return None
