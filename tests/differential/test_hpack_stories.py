"""HPACK over whole connections against the `hpack` package: many blocks, changing table sizes, damage.

We refuse some of what the package lets pass (DELIBERATE); all else is read alike, and what it refuses we
refuse.
"""

from __future__ import annotations

import random

import hpack as oracle
import pytest
from shim.hpack_shim import Decoder, Encoder

EHPACK = -31
DELIBERATE = (
    "a third size update at the beginning of a block (RFC 7541 4.2)",
    "an integer of more than four continuation bytes (RFC 7541 5.1 asks for a limit)",
)
NAMES = [b":path", b"cookie", b"accept", b"x-tenant", b"x-" + b"n" * 70, b"etag", b"content-type", b"x"]
HEADS = 60


def values(source: random.Random) -> bytes:
    match source.randrange(6):
        case 0:
            return b""
        case 1:
            return b"value-%d" % source.randrange(4)
        case 2:
            return source.randbytes(source.randrange(30))
        case 3:
            return b"w" * source.choice((100, 900, 1500, 3000, 4063, 5000))
        case 4:
            return b"%032x" % source.getrandbits(128)
        case _:
            return b"/items/%d" % source.randrange(12)


def head(source: random.Random) -> list[tuple[bytes, bytes]]:
    return [(source.choice(NAMES), values(source)) for _ in range(source.randrange(14))]


def theirs(decoder: oracle.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | int:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except oracle.HPACKError:
        return EHPACK


def ours(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | int:
    got = decoder.decode(block)
    if isinstance(got, int):
        return got
    fields, over = got
    assert not over
    return [(name, value) for name, value, *_ in fields]


def oracle_decoder() -> oracle.Decoder:
    return oracle.Decoder(max_header_list_size=1 << 24)


@pytest.mark.parametrize("seed", range(12))
def test_a_connection_of_ours_is_read_by_the_oracle(seed):
    source = random.Random(f"ours {seed}")
    encoder, decoder, mine = Encoder(huffman=seed % 2 == 0), oracle_decoder(), Decoder()
    for _ in range(HEADS):
        for _ in range(
            source.choice((0, 0, 0, 1, 2, 3))
        ):  # several before one block: the smallest and the last count
            limit = source.choice((0, 40, 300, 1000, 4096, 65536))
            decoder.max_allowed_table_size = limit
            encoder.limit(limit)
        fields = head(source)
        block = encoder.encode(fields)
        assert theirs(decoder, block) == fields
        assert ours(mine, block) == fields
        entries, size, held = encoder.table()
        assert size <= mine.table()[1] <= 4096
        assert entries <= mine.table()[0] == len(decoder.header_table.dynamic_entries)
        assert held <= 4096 >= mine.table()[2]


@pytest.mark.parametrize("seed", range(12))
def test_a_connection_of_the_oracle_is_read_by_us(seed):
    source = random.Random(f"theirs {seed}")
    encoder, decoder, flagged = oracle.Encoder(), Decoder(), 0
    for _ in range(HEADS):
        for _ in range(source.choice((0, 0, 0, 1, 2))):
            # the same size twice makes the package forget to announce it
            sizes = {0, 40, 300, 1000, 4096} - {encoder.header_table_size}
            encoder.header_table_size = source.choice(sorted(sizes))
        fields = head(source)
        sensitive = [oracle.NeverIndexedHeaderTuple(*f) if source.random() < 0.1 else f for f in fields]
        block = encoder.encode(sensitive, huffman=source.random() < 0.5)
        got, over = decoder.decode(block)
        assert not over
        assert [(name, value) for name, value, *_ in got] == fields
        # what a table holds is referred to, whatever it is
        never = [flag for *_, flag in got]
        marked = [f for f, flag in zip(sensitive, never, strict=True) if flag]
        assert all(isinstance(f, oracle.NeverIndexedHeaderTuple) for f in marked)
        flagged += sum(never)
        assert decoder.table()[:2] == (
            len(encoder.header_table.dynamic_entries),
            encoder.header_table._current_size,
        )


def deliberate(block: bytes) -> bool:
    """Whether a block may be refused by us alone: it holds one of DELIBERATE."""
    updates = at = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:
        updates += 1
        full = block[at] & 0x1F == 0x1F
        at += 1
        while full and at < len(block):
            full = block[at] >= 0x80
            at += 1
    # an integer that long has four bytes with the highest bit behind each other
    run = longest = 0
    for byte in block:
        run = run + 1 if byte >= 0x80 else 0
        longest = max(longest, run)
    return updates > 2 or longest >= 4


def story(source: random.Random) -> tuple[list[bytes], bytes]:
    """Blocks that fill the tables, and one more."""
    encoder = oracle.Encoder()
    made = [encoder.encode(head(source), huffman=bool(i % 2)) for i in range(4)]
    short = [(name, value[:40]) for name, value in head(source)] + [(b"x-last", b"gzip")]
    return made, encoder.encode(short, huffman=source.random() < 0.5)


def compare(before: list[bytes], block: bytes) -> bool:
    """Both read a block after the same past; whether they accepted it."""
    mine, other = Decoder(), oracle_decoder()
    for past in before:
        assert ours(mine, past) == theirs(other, past)
    got, wanted = ours(mine, block), theirs(other, block)
    if got != wanted:
        assert got == EHPACK
        assert deliberate(block)
    return isinstance(got, list)


@pytest.mark.parametrize("seed", range(6))
def test_every_truncation_and_every_changed_byte_is_judged_alike(seed):
    source = random.Random(f"damage {seed}")
    before, block = story(source)
    assert compare(before, block)
    accepted = [compare(before, block[:cut]) for cut in range(len(block))]
    assert not all(accepted)
    for at in range(len(block)):
        for change in (0x01, 0x20, 0x40, 0x80, 0xFF):
            compare(before, block[:at] + bytes([block[at] ^ change]) + block[at + 1 :])


def test_the_deliberate_differences():
    update = oracle_decoder()
    assert theirs(update, b"\x20\x20\x20\x82") == [(b":method", b"GET")]
    assert ours(Decoder(), b"\x20\x20\x20\x82") == EHPACK
    padded = b"\x0f\x80\x80\x80\x80\x00\x01v"
    assert theirs(oracle_decoder(), padded) == [(b"accept-charset", b"v")]
    assert ours(Decoder(), padded) == EHPACK
    assert ours(Decoder(), b"\x0f\x80\x80\x80\x00\x01v") == [(b"accept-charset", b"v")]
    assert len(DELIBERATE) == 2
