"""The signers of the mesh on disk: the one in use, one that is to follow, and those before.

Owns the files ca.key and ca.crt (in use), ca.next.key and ca.next.crt (to follow) and ca.rotation (the phase,
and certificates of earlier signers), and the order in which they are written: whenever a crash comes, the
next start goes on from before or after a step. It must not know who is connected: rotation.py says when.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from fastmesh_control.files import read_secret, write_secret
from fastmesh_control.signer import BadSigner, Signer, certificates, key_id, load, make_root, pem_of
from fastmesh_control.store import StateError

IDLE: Final = "idle"
DISTRIBUTE: Final = "distribute"
"""The roots of the signer to come are trusted, too; it does not sign yet."""
REISSUE: Final = "reissue"
"""It signs; the roots of the one before are still trusted."""
PHASES: Final = (IDLE, DISTRIBUTE, REISSUE)

PROVES_SECONDS: Final = 8 * 24 * 3600.0
"""For how long after a rotation a certificate of the signer before still proves to us who its holder was, so
that one who was away can renew: above server.EXPIRED_GRACE."""


@dataclass
class Past:
    """A signer that signs no more. `roots`: trusted until the rotation ends; `until`: when to forget it."""

    cert: x509.Certificate
    roots: list[x509.Certificate]
    until: float = 0.0

    @property
    def id(self) -> str:
        return key_id(self.cert)

    def kept(self) -> dict[str, Any]:
        return {
            "cert": pem_of(self.cert).decode(),
            "roots": pem_of(*self.roots).decode(),
            "until": self.until,
        }


@dataclass
class _Kept:
    """What ca.rotation says."""

    phase: str = IDLE
    since: float = 0.0
    reissue: int = 0
    past: list[Past] = field(default_factory=list)


class Keyring:
    """All methods run in the event loop's thread. What cannot be written raises StateError."""

    def __init__(self, directory: Path, trust_domain: str, given: Signer | None = None) -> None:
        """`given`: the first signer of a new state, instead of a root of our own."""
        self._directory = directory
        self._kept = self._read_rotation()
        coming = self._read("ca.next")
        if self._kept.phase == REISSUE and coming is not None:
            # A crash between the decision to sign with it and the last of its files.
            self._write("ca", coming)
            self._remove_next()
            coming = None
        active = self._read("ca")
        if active is None:
            active = given or make_root(trust_domain)
            self._write("ca", active)
        if self._kept.phase == DISTRIBUTE and coming is None:
            self._kept.phase = IDLE
        elif self._kept.phase != DISTRIBUTE and coming is not None:
            self._remove_next()
            coming = None
        self.active: Signer = active
        self.coming: Signer | None = coming

    # -- what there is

    @property
    def phase(self) -> str:
        return self._kept.phase

    @property
    def since(self) -> float:
        """When the phase began."""
        return self._kept.since

    @property
    def reissue(self) -> int:
        """Certificates issued before (Unix time) are to be renewed at once; 0: none."""
        return self._kept.reissue

    @property
    def past(self) -> list[Past]:
        return self._kept.past

    def roots(self) -> list[x509.Certificate]:
        """What the mesh trusts now."""
        found = list(self.active.roots)
        more = [*(self.coming.roots if self.coming else ()), *(r for p in self.past for r in p.roots)]
        for root in more:
            if root not in found:
                found.append(root)
        return found

    def roots_pem(self) -> bytes:
        return pem_of(*self.roots())

    def issuers(self) -> list[x509.Certificate]:
        """Whose signature on a leaf proves its holder to us."""
        return [self.active.cert, *(p.cert for p in self.past)]

    # -- steps

    def begin(self, signer: Signer) -> None:
        """Its roots are trusted from now on; it takes the place of another one that was to follow."""
        self._remove_next()
        self._write("ca.next", signer)
        self._write_rotation(_Kept(DISTRIBUTE, time.time(), self._kept.reissue, self.past))
        self.coming = signer

    def cancel(self) -> None:
        """The signer to come is given up."""
        self._write_rotation(_Kept(IDLE, time.time(), self._kept.reissue, self.past))
        self.coming = None
        self._remove_next()

    def switch(self) -> None:
        """The signer to come signs from now on."""
        assert self.coming is not None
        now = time.time()
        before = Past(self.active.cert, list(self.active.roots))
        past = [p for p in self.past if p.id != self.coming.id]
        # One second more: who was signed by the old one in this very second must see that it is meant.
        self._write_rotation(_Kept(REISSUE, now, int(now) + 1, [*past, before]))
        self.active, self.coming = self.coming, None
        self._write("ca", self.active)
        self._remove_next()

    def finish(self) -> None:
        """Only the roots of the signer in use are trusted from now on."""
        now = time.time()
        past = [Past(p.cert, [], p.until or now + PROVES_SECONDS) for p in self.past]
        self._write_rotation(_Kept(IDLE, now, self._kept.reissue, past))

    def forget(self, now: float) -> None:
        """Drop signers whose time is over."""
        past = [p for p in self.past if not p.until or p.until > now]
        if len(past) != len(self.past):
            self._write_rotation(_Kept(self.phase, self.since, self._kept.reissue, past))

    def renew(self, signer: Signer) -> None:
        """The same signing certificate with other roots beside its own."""
        self._write("ca", signer)
        self.active = signer

    # -- files

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _write(self, name: str, signer: Signer) -> None:
        # A start between the two finds a key that is not the certificate's: then ca.rotation has told already
        # that this step is to be made again.
        write_secret(self._path(f"{name}.key"), signer.key_pem())
        write_secret(self._path(f"{name}.crt"), signer.cert_pem())

    def _read(self, name: str) -> Signer | None:
        key_pem, cert_pem = read_secret(self._path(f"{name}.key")), read_secret(self._path(f"{name}.crt"))
        if key_pem is None and cert_pem is None:
            return None
        if key_pem is None or cert_pem is None:
            if name != "ca":
                return None  # cut off while it was written: the step was not taken
            raise StateError(
                f"of ca.key and ca.crt in {self._directory} one is missing: "
                "restore it, or remove both to make a new root"
            )
        try:
            return load(key_pem, cert_pem)
        except BadSigner as error:
            if name != "ca" and self._kept.phase != REISSUE:
                return None
            raise StateError(
                f"{name}.key or {name}.crt in {self._directory} cannot be used: {error}"
            ) from error

    def _remove_next(self) -> None:
        try:
            for name in ("ca.next.crt", "ca.next.key"):
                self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{error.filename} cannot be removed: {error.strerror}") from error

    def _read_rotation(self) -> _Kept:
        path = self._path("ca.rotation")
        text = read_secret(path)
        if text is None:
            return _Kept()
        try:
            said = json.loads(text)
            if said["phase"] not in PHASES:
                raise ValueError(f"phase {said['phase']!r}")
            past = [
                Past(
                    certificates(p["cert"].encode(), "a certificate")[0],
                    certificates(p["roots"].encode(), "a root"),
                    float(p["until"]),
                )
                for p in said["past"]
            ]
            return _Kept(said["phase"], float(said["since"]), int(said["reissue"]), past)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, BadSigner) as error:
            raise StateError(
                f"{path} cannot be read ({error}): restore it, or remove it if no rotation is under way"
            ) from error

    def _write_rotation(self, kept: _Kept) -> None:
        said = {
            "phase": kept.phase,
            "since": kept.since,
            "reissue": kept.reissue,
            "past": [p.kept() for p in kept.past],
        }
        write_secret(self._path("ca.rotation"), json.dumps(said, indent=1).encode() + b"\n")
        self._kept = kept
