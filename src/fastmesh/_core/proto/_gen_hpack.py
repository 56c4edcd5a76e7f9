"""Writes gen_hpack.pxd: HPACK's static table and Huffman code, RFC 7541 appendices A and B.

Owns: the two tables of the RFC. Must not know: how a block is coded. Layer: build tool, nothing imports it.

    python src/fastmesh/_core/proto/_gen_hpack.py            write
    python src/fastmesh/_core/proto/_gen_hpack.py --check    exit 1 when the file is not current
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from _gen_tables import lookup  # type: ignore[import-not-found]

HERE = Path(__file__).parent
OUT = HERE / "gen_hpack.pxd"

EOS = 256
# RFC 7541 appendix B: bits of each symbol's code, EOS last. The code is canonical (shorter first, then by
# symbol), so this is all of it.
_LENGTHS = """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
30
"""
LENGTHS = [int(n) for n in _LENGTHS.split()]
# RFC 7541 appendix A
_STATIC = """
:authority|
:method|GET
:method|POST
:path|/
:path|/index.html
:scheme|http
:scheme|https
:status|200
:status|204
:status|206
:status|304
:status|400
:status|404
:status|500
accept-charset|
accept-encoding|gzip, deflate
accept-language|
accept-ranges|
accept|
access-control-allow-origin|
age|
allow|
authorization|
cache-control|
content-disposition|
content-encoding|
content-language|
content-length|
content-location|
content-range|
content-type|
cookie|
date|
etag|
expect|
expires|
from|
host|
if-match|
if-modified-since|
if-none-match|
if-range|
if-unmodified-since|
last-modified|
link|
location|
max-forwards|
proxy-authenticate|
proxy-authorization|
range|
referer|
refresh|
retry-after|
server|
set-cookie|
strict-transport-security|
transfer-encoding|
user-agent|
vary|
via|
www-authenticate|
"""
STATIC = _STATIC.split("\n")[1:-1]


def codes() -> list[int]:
    """symbol -> code, right aligned."""
    out = [0] * 257
    code = bits = 0
    for symbol in sorted(range(257), key=lambda s: (LENGTHS[s], s)):
        code <<= LENGTHS[symbol] - bits
        bits = LENGTHS[symbol]
        out[symbol] = code
        code += 1
    return out


def automaton() -> list[list[tuple[int, int, int]]]:
    """state x nibble -> (next state, symbol or -1, flags). A state is an inner node of the code's tree.

    Flags: 1 the string may end here (only ones since the last symbol, at most 7), 2 failure (EOS)."""
    tree: list[list[int]] = [[0, 0]]  # node -> children; < 0: -(symbol + 1); 0: none
    depth = {0: 0}
    ones = {0: True}
    for symbol, code in enumerate(codes()):
        at = 0
        for i in range(LENGTHS[symbol] - 1, -1, -1):
            bit = code >> i & 1
            if i == 0:
                tree[at][bit] = -(symbol + 1)
            else:
                if tree[at][bit] == 0:
                    tree.append([0, 0])
                    tree[at][bit] = len(tree) - 1
                    depth[len(tree) - 1] = depth[at] + 1
                    ones[len(tree) - 1] = ones[at] and bit == 1
                at = tree[at][bit]
    assert len(tree) == 256
    rows = []
    for start in range(256):
        row = []
        for nibble in range(16):
            at, emitted, failed = start, -1, False
            for i in (3, 2, 1, 0):
                at = tree[at][nibble >> i & 1]
                if at < 0:
                    symbol = -at - 1
                    failed = failed or symbol == EOS
                    assert emitted < 0 or failed
                    emitted, at = symbol, 0
            flags = 2 if failed else int(ones[at] and depth[at] <= 7)
            row.append((at, -1 if failed else emitted, flags))
        rows.append(row)
    return rows


def ids() -> dict[str, str]:
    """Header name -> H_* or HP_* number, as msg.pxd has them."""
    text = (HERE / "msg.pxd").read_text()
    names = [n for n in re.findall(r"^    (H_[A-Z0-9_]+)\b", text, re.M) if n != "H_N"]
    out = {n[2:].lower().replace("_", "-"): str(i) for i, n in enumerate(names) if n != "H_NONE"}
    pseudo = re.findall(r"^    (HP_[A-Z]+)\b", text, re.M)
    out |= {":" + n[3:].lower(): str(128 + i) for i, n in enumerate(pseudo)}
    return out


def render() -> str:
    known = ids()
    table = "__attribute__((unused)) static const"
    c = [
        "#include <stdint.h>",
        "typedef struct { const char *name, *value; uint8_t name_n, value_n, id, twin; } fm_hpack_static_t;",
        "/* twin: the first entry with the same name */",
        f"{table} fm_hpack_static_t fm_hpack_static[62] = {{",
        '    {"", "", 0, 0, 0, 0},',
    ]
    first: dict[str, int] = {}
    for i, line in enumerate(STATIC, 1):
        name, value = line.split("|")
        twin = first.setdefault(name, i)
        sizes = f"{len(name)}, {len(value)}"
        c.append(f'    {{"{name}", "{value}", {sizes}, {known.get(name, "0")}, {twin}}},')
    c += ["};", "typedef struct { uint32_t code; uint8_t bits; } fm_huff_code_t;"]
    c.append(f"{table} fm_huff_code_t fm_huff_code[256] = {{")
    all_codes = [f"{{0x{code:x}, {LENGTHS[s]}}}" for s, code in enumerate(codes()[:256])]
    c += ["    " + ", ".join(all_codes[i : i + 8]) + "," for i in range(0, 256, 8)]
    c += ["};", "typedef struct { uint8_t next, symbol, flags; } fm_huff_step_t;"]
    c += ["/* flags: 1 may end here, 2 failure, 4 a symbol */"]
    c.append(f"{table} fm_huff_step_t fm_huff_step[256][16] = {{")
    for row in automaton():
        steps = (f"{{{n}, {max(s, 0)}, {f | (4 if s >= 0 else 0)}}}" for n, s, f in row)
        c.append("    {" + ", ".join(steps) + "},")
    c.append("};")
    firsts = {f"S{i}": name for name, i in first.items() if name[0] != ":"}
    c += lookup("fm_hpack_lookup", firsts, {k: int(k[1:]) for k in firsts}, fold=False)
    by_id = [0] * 256
    for name, i in first.items():
        if name in known:
            by_id[int(known[name])] = i
    c.append("/* H_* or HP_* -> first entry of the static table with that name; 0: none */")
    c.append(f"{table} uint8_t fm_hpack_by_id[256] = {{")
    c += ["    " + ", ".join(map(str, by_id[i : i + 32])) + "," for i in range(0, 256, 32)] + ["};"]
    body = "\n".join("    " + line for line in c)
    return f'''"""GENERATED by _gen_hpack.py; do not edit (L1). HPACK's static table and Huffman code."""
from libc.stdint cimport uint8_t, uint32_t
from fastmesh._core.proto.gen_tables cimport fm_cc  # for the comparisons of fm_hpack_lookup

cdef extern from *:
    """
{body}
    """
    ctypedef struct fm_hpack_static_t:
        const char *name
        const char *value
        uint8_t name_n
        uint8_t value_n
        uint8_t id
        uint8_t twin
    ctypedef struct fm_huff_code_t:
        uint32_t code
        uint8_t bits
    ctypedef struct fm_huff_step_t:
        uint8_t next
        uint8_t symbol
        uint8_t flags
    const fm_hpack_static_t fm_hpack_static[62]
    const fm_huff_code_t fm_huff_code[256]
    const fm_huff_step_t fm_huff_step[256][16]
    const uint8_t fm_hpack_by_id[256]
    int fm_hpack_lookup(const char *s, size_t n) nogil
'''


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        return 0 if OUT.exists() and OUT.read_text() == text else 1
    OUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
