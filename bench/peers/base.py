"""What every proxy under measurement has in common: found, configured from a template, started as one hop.

Owns: what a hop and a chain of hops are, and the template form (@NAME@). Must not know: how it is measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.certs import SERVER_ID, SERVER_NAME, Certs

TEMPLATES = Path(__file__).resolve().parent


class Role(Enum):
    PLAIN = "plain"  # no TLS
    OUTER = "outer"  # mTLS out: the first proxy of a pair
    INNER = "inner"  # mTLS in: the second one
    TLS = "tls"  # TLS in, no client certificate


class Version(Enum):
    H1 = "h1"
    H2 = "h2"  # without TLS by prior knowledge, with TLS by ALPN


@dataclass(frozen=True)
class Hop:
    """One proxy: what it does with TLS, and the version of HTTP on each of its sides."""

    role: Role = Role.PLAIN
    down: Version = Version.H1
    up: Version = Version.H1

    @property
    def name(self) -> str:
        return f"{self.role.value}-{self.down.value}-{self.up.value}"

    @property
    def tls_in(self) -> bool:
        return self.role in (Role.TLS, Role.INNER)


class Service(Enum):
    """What the backend behind the last hop does."""

    WEB = "web"  # 1 KiB, or 1 MiB at /large over HTTP/1.1
    GRPC = "grpc"  # one message and trailers
    HOLD = "hold"  # never answers


@dataclass(frozen=True)
class Chain:
    """What is started for a row: one proxy or a pair, from the client's side to the backend's."""

    hops: tuple[Hop, ...]
    service: Service = Service.WEB


H1, H2 = Version.H1, Version.H2
CHAINS = {
    "plain": Chain((Hop(),)),
    "tls": Chain((Hop(Role.TLS),)),
    "pair": Chain((Hop(Role.OUTER), Hop(Role.INNER))),
    "h2-h1": Chain((Hop(down=H2),)),
    "h2-h2": Chain((Hop(down=H2, up=H2),)),
    "pair-h2": Chain((Hop(Role.OUTER, up=H2), Hop(Role.INNER, down=H2))),
    "grpc": Chain((Hop(down=H2, up=H2),), Service.GRPC),
    "hold": Chain((Hop(down=H2, up=H2),), Service.HOLD),
}


@dataclass(frozen=True)
class Site:
    """What one hop is told: where it listens, whom it asks, and its directory and certificates."""

    listen: int
    upstream: int
    directory: Path
    certs: Certs


class Peer(ABC):
    name: str

    @abstractmethod
    def find(self) -> Path | None:
        """The executable, or None when the peer is not installed."""

    def speaks(self, hop: Hop) -> bool:
        """Whether it can do such a hop at all."""
        return True

    @abstractmethod
    def command(self, hop: Hop, site: Site) -> list[str]:
        """Writes the hop's configuration into site.directory and says how to start it in the foreground."""

    def hint(self) -> str:
        return f"{self.name} is not installed: apt-get install {self.name}"

    def version(self) -> str:
        return "unknown"

    def host(self) -> str:
        """The Host header that the load sends."""
        return SERVER_NAME

    def path(self) -> str:
        """The path that the load asks for."""
        return "/"


def which(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    return Path(found) if found else None


def version_line(command: list[str]) -> str:
    """The first line of a version command that has a number in it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip()[-100:] for line in lines if any(char.isdigit() for char in line)), "unknown")


def write_config(template: str, target: Path, site: Site, **extra: object) -> Path:
    """Fills @NAME@ in a template; `extra` first and in order, for what it inserts may hold names too."""
    certs = site.certs
    values: dict[str, object] = {
        **extra,
        "LISTEN": site.listen,
        "UPSTREAM": site.upstream,
        "CA": certs.ca,
        "SERVER_CERT": certs.server_cert,
        "SERVER_KEY": certs.server_key,
        "CLIENT_CERT": certs.client_cert,
        "CLIENT_KEY": certs.client_key,
        "SERVER_NAME": SERVER_NAME,
        "SERVER_ID": SERVER_ID,
    }
    text = (TEMPLATES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    if left := re.search(r"@[A-Z_]+@", text):
        raise ValueError(f"{template}: nothing fills {left.group()}")
    target.write_text(text)
    return target
