"""A certificate authority from outside: a directory of PEM files, read at the start and watched.

Owns the names of the files: Istio's cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem) or those
of a Kubernetes TLS secret as cert-manager writes it (tls.crt, tls.key, ca.crt). It must not know what a new
signer leads to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fastmesh_control.rotation import NotNow
from fastmesh_control.signer import BadSigner, Signer, load
from fastmesh_control.store import StateError

log = logging.getLogger("fastmesh.control")

LOOK_SECONDS = 2.0
FILE_MOST = 256 << 10
ISTIO = ("ca-key.pem", ("ca-cert.pem", "cert-chain.pem"), "root-cert.pem")
SECRET = ("tls.key", ("tls.crt",), "ca.crt")


class PluggedIn:
    """The directory. Links are followed, so that a secret that is swapped as a whole is seen."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: tuple[bytes, bytes, bytes] | None = None
        self._told = ""

    def read(self) -> Signer:
        """The signer that the files make; BadSigner says which file and what is wrong."""
        parts = self._parts()
        try:
            signer = load(*parts, now=datetime.now(UTC))
        except BadSigner as error:
            raise BadSigner(f"{self._directory}: {error}") from None
        self._seen = parts
        return signer

    def _parts(self) -> tuple[bytes, bytes, bytes]:
        key, certs, root = ISTIO if (self._directory / ISTIO[0]).exists() else SECRET
        text = [self._file(name, missing_ok=name == "cert-chain.pem") for name in certs]
        # cert-chain.pem repeats the signing certificate, or does not
        chain = text[0] + b"".join(t for t in text[1:])
        return self._file(key), chain, self._file(root)

    def _file(self, name: str, missing_ok: bool = False) -> bytes:
        path = self._directory / name
        try:
            with path.open("rb") as file:
                data = file.read(FILE_MOST + 1)
        except FileNotFoundError:
            if missing_ok:
                return b""
            raise BadSigner(
                f"{path} is missing: a directory with ca-cert.pem, ca-key.pem and root-cert.pem, "
                "or with tls.crt, tls.key and ca.crt is wanted"
            ) from None
        except OSError as error:
            raise BadSigner(f"{path} cannot be read: {error.strerror}") from None
        if len(data) > FILE_MOST:
            raise BadSigner(f"{path} is larger than {FILE_MOST >> 10} KiB")
        return data

    def look(self, offer: Callable[[Signer], object]) -> None:
        """Offer what the files say, if that is new. What cannot be used is told once and changes nothing."""
        try:
            before = self._seen
            if before is not None and self._parts() == before:
                return
            signer = self.read()
            try:
                offer(signer)
            except NotNow:
                self._seen = before  # it is offered again
                return
        except (BadSigner, StateError) as error:
            if str(error) != self._told:
                log.error("the plugged-in CA is not taken up: %s; what signed before signs on", error)
            self._told = str(error)
            return
        self._told = ""

    async def watch(self, offer: Callable[[Signer], object]) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(offer)
