"""What whoever packs a config needs (compile): refusals with a path, numbers within bounds, text that may go
into a head.

Used in an agent: it does not pay for typing and re (3 MB) to read a config.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from fastmesh._core.shm.pack import Packer, regex_check
from fastmesh._core.shm.segment import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Run = tuple[()] | tuple[int, int]

MILLION = 1_000_000
FAMILIES = {4: AF_INET, 6: AF_INET6}
MAX_NAME, MAX_VALUE = 256, 8192  # as SNAP_MAX_NAME, SNAP_MAX_VALUE
# What a field name is made of (RFC 9110 5.6.2), and what no field value and no request target may hold.
TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOT_IN_VALUE = frozenset([chr(i) for i in range(32) if i != 9] + ["\x7f"])
NOT_IN_TARGET = NOT_IN_VALUE | {" ", "\t"}


def refuse(path: str, why: str) -> SnapshotError:
    return SnapshotError(f"{path}: {why}")


def choose(table: Mapping[str, int], value: Any, path: str) -> int:
    """The number of a name, or a refusal that lists what there is."""
    found = table.get(value)
    if found is None:
        raise refuse(path, f"{value!r} is none of {', '.join(table)}")
    return found


def uint(value: Any, path: str, most: int = 0xFFFFFFFF, least: int = 0) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise refuse(path, f"{value!r} is not a whole number from {least} to {most}")
    return value


def run(indexes: Sequence[int]) -> Run:
    """Elements that were added one after the other, as (first, n)."""
    return (indexes[0], len(indexes)) if indexes else ()


def pack_regex(packer: Packer, pattern: str, path: str) -> int:
    raw = pattern.encode()
    why = regex_check(raw)
    if why is not None:
        raise refuse(path, f"regular expression {pattern!r}: {why}")
    return packer.regex(raw)


def field_name(name: str, path: str) -> str:
    if not name or name.strip(TOKEN) or len(name) > MAX_NAME:
        raise refuse(path, f"{name[:80]!r} is not a header name")
    return name


def field_value(value: str, path: str) -> str:
    if not NOT_IN_VALUE.isdisjoint(value) or len(value.encode()) > MAX_VALUE:
        raise refuse(path, f"{value[:80]!r} has a line end or a control in it, or over {MAX_VALUE} bytes")
    return value


def target_part(value: str, path: str) -> str:
    """What goes into a request line, a Host or a Location."""
    if not NOT_IN_TARGET.isdisjoint(value) or len(value.encode()) > MAX_VALUE:
        raise refuse(path, f"{value[:80]!r} has a space or a control in it, or over {MAX_VALUE} bytes")
    return value


def address_bytes(address: str, path: str) -> tuple[int, bytes]:
    """(4 or 6, network-order bytes) of an IP literal."""
    for family, kind in FAMILIES.items():
        try:
            return family, inet_pton(kind, address)
        except OSError:
            pass
    raise refuse(path, f"{address!r} is no IP address")


def network_bytes(network: str, path: str) -> bytes:
    """An address, or a network in CIDR notation, as SNAP_NET bytes: family, bits of the prefix, address."""
    address, slash, prefix = network.partition("/")
    family, raw = address_bytes(address, path)
    most = len(raw) * 8
    bits = most
    if slash:
        if not (prefix.isascii() and prefix.isdigit()) or int(prefix) > most:
            raise refuse(path, f"{network!r}: the prefix is a number of bits, at most {most}")
        bits = int(prefix)
    return bytes([family, bits]) + raw.ljust(16, b"\0")
