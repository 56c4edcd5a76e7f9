"""Every field of a packed config (shm/snapshot.pxd, shm/authztab.pxd), with its place: read from the
declarations, so that a field that is added is known here, too."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from helpers.cysource import CORE

DECLARED: Final = "".join((CORE / "shm" / name).read_text() for name in ("snapshot.pxd", "authztab.pxd"))
NUMBERS: Final = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8}
FORMS: Final = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
# Sections of the header whose elements are not of the struct that is called like the section.
ELEMENTS: Final = {
    "listeners": "SnapListener",
    "tables": "SnapTable",
    "vhosts": "SnapVhost",
    "routes": "SnapRoute",
    "conds": "SnapCond",
    "actions": "SnapAction",
    "dests": "SnapDest",
    "hdrops": "SnapHdrOp",
    "clusters": "SnapCluster",
    "endpoints": "SnapEndpoint",
    "tls": "SnapTls",
    "strs": "SnapStr",
    "u32s": "uint32_t",
    "regexes": "SnapStr",
    "mirrors": "SnapMirror",
    "cors": "SnapCors",
    "origins": "SnapOrigin",
    "limits": "SnapLimit",
    "levels": "SnapLevel",
    "paths": "SnapPath",
    "authz": "SnapAuthz",
    "authz_dims": "SnapAuthzDim",
    "authz_keys": "SnapAuthzKey",
}


@dataclass(frozen=True)
class Field:
    """A number in a struct: "health.path.n" at this offset, so many bytes."""

    name: str
    at: int
    size: int

    @property
    def form(self) -> str:
        return FORMS[self.size]


def declared() -> dict[str, tuple[int, int, list[Field]]]:
    """struct -> (bytes, alignment, numbers), as a C compiler lays it out."""
    found = {kind: (n, n, [Field("", 0, n)]) for kind, n in NUMBERS.items()}
    for name, body in re.findall(r"^cdef struct (\w+):.*\n((?:    .*\n)+)", DECLARED, re.M):
        at, widest, numbers = 0, 1, []
        for line in body.splitlines():
            text = line.partition("#")[0].split()
            if len(text) != 2:
                continue
            kind, field = text
            if kind not in found:
                break  # Snap, SnapFault: not what is packed
            size, align, inner = found[kind]
            field, _, times = field.rstrip("]").partition("[")
            at = -(-at // align) * align
            widest = max(widest, align)
            for i in range(int(times or 1)):
                here = f"{field}[{i}]" if times else field
                numbers += [Field(f"{here}.{f.name}".rstrip("."), at + f.at, f.size) for f in inner]
                at += size
        else:
            found[name] = (-(-at // widest) * widest, widest, numbers)
    return found


STRUCTS: Final = {name: (size, numbers) for name, (size, _, numbers) in declared().items()}
HEADER: Final = STRUCTS["SnapHeader"][0]


def section(data: bytes | bytearray, name: str) -> tuple[int, int]:
    """(offset, count) of a section."""
    at = next(f.at for f in STRUCTS["SnapHeader"][1] if f.name == f"{name}.off")
    off, n = struct.unpack_from("<II", data, at)
    return off, n


def elements(data: bytes | bytearray) -> dict[str, list[tuple[int, str]]]:
    """section -> (offset, struct) of each element; the host buckets, which only tables know, as "hosts"."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name, kind in ELEMENTS.items():
        off, n = section(data, name)
        found[name] = [(off + i * STRUCTS[kind][0], kind) for i in range(n)]
    numbers = {f.name: f for f in STRUCTS["SnapTable"][1]}
    hosts = []
    for at, _ in found["tables"]:
        buckets = struct.unpack_from("<I", data, at + numbers["buckets"].at)[0]
        first = struct.unpack_from("<I", data, at + numbers["hosts_off"].at)[0]
        hosts += [(first + i * STRUCTS["SnapHost"][0], "SnapHost") for i in range(buckets)]
    return {**found, "hosts": hosts}


def asserted() -> dict[str, int]:
    """struct -> bytes, as shm/layout.pyx has the compiler check it."""
    text = (CORE / "shm/layout.pyx").read_text()
    return {name: int(n) for name, n in re.findall(r"sizeof\((Snap\w+)\) == (\d+)\)", text)}
