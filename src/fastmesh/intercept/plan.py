"""What is redirected, and what is not: the same for nftables and iptables.

As istio-iptables: outbound connections go to one port, inbound ones to another, but not those of the proxy's
own user and group, nor those within the host.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

ANY = "*"
# Of a sidecar itself: admin, both ports of the proxy, and what Istio's has there. Inbound ones among them are
# never the application's.
OWN_PORTS = (15000, 15001, 15006, 15020, 15021, 15090)


class PlanError(ValueError):
    """An option that cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Plan:
    """Ports are 1 to 65535, networks in CIDR form."""

    outbound: int = 15001
    inbound: int = 15006
    uids: tuple[int, ...] = (1337,)
    gids: tuple[int, ...] = (1337,)
    inbound_ports: tuple[int, ...] | None = None
    """None: all; (): inbound connections are left alone."""
    inbound_exclude: tuple[int, ...] = (22, *OWN_PORTS)
    outbound_exclude: tuple[int, ...] = ()
    networks: tuple[str, ...] | None = None
    """Outbound; None: all."""
    networks_exclude: tuple[str, ...] = ()
    families: tuple[int, ...] = field(default=(4, 6))

    def of(self, networks: tuple[str, ...], family: int) -> tuple[str, ...]:
        """Those of an IP version."""
        return tuple(n for n in networks if ipaddress.ip_network(n).version == family)


def ports(text: str, option: str) -> tuple[int, ...]:
    """ "80,443" """
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if not (part.isascii() and part.isdigit() and 0 < int(part) < 65536):
            raise PlanError(f"{option}: {part!r} is not a port")
        found.append(int(part))
    return tuple(dict.fromkeys(found))


def ids(text: str, option: str) -> tuple[int, ...]:
    """ "1337,1338": users or groups, by number."""
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if not (part.isascii() and part.isdigit() and int(part) < 2**32 - 1):
            raise PlanError(f"{option}: {part!r} is not a number of a user or a group")
        found.append(int(part))
    return tuple(dict.fromkeys(found))


def networks(text: str, option: str) -> tuple[str, ...]:
    """ "10.0.0.0/8,fd00::/8" """
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            found.append(str(ipaddress.ip_network(part)))
        except ValueError as error:
            raise PlanError(f"{option}: {error}") from None
    return tuple(dict.fromkeys(found))
