"""Where fuzzing starts: the golden cases, and the inputs that once opened a new path (corpus/TARGET/*)."""

from __future__ import annotations

from pathlib import Path

from helpers import golden_h2, hellos
from helpers.golden_h1 import CASES, cases_of
from helpers.golden_hpack import REFUSED, STORIES

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GOLDEN_H2 = (golden_h2.REQUESTS, golden_h2.RESPONSES, golden_h2.TRAILERS)
# A fuzz input begins with two bytes that say where it is split, or other settings; see shim/*_fuzz.pyx.
SPLITS = (b"\x00\x00", b"\x07\x01")


def hpack() -> dict[str, list[bytes]]:
    """Blocks behind their lengths; fields as records (what, name length, value length, name, value)."""
    blocks = [bytes.fromhex(block) for block in REFUSED]
    joined, records = [], []
    for story, fields, _ in STORIES.values():
        made = [bytes.fromhex(block) for block, _ in story]
        blocks += made
        joined.append(b"".join(bytes([len(block)]) + block for block in made))
        for again in range(3):
            text = b""
            for head in fields:
                rows = [bytes([again == 2, len(n), len(v)]) + n + v for n, v in head]
                text += b"".join(rows) + b"\x01\x00\x00"
                records += rows
            records.append(text * (again + 1))
            records.append(text + b"\x10\x00\x40" + text + b"\x10\x00\xff" + text)
    return {"hpack": [bytes([len(block)]) + block for block in blocks] + joined, "hpack_fields": records}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def http2() -> dict[str, list[bytes]]:
    """Heads as blocks, and conversations with either role."""
    requests, responses, trailers = (golden_h2.blocks(heads) for heads in GOLDEN_H2)
    control = [
        frame(kind, flags, stream, payload)
        for kind, flags, stream, payload in [
            (4, 0, 0, b"\0\4\0\0\0\x10"), (4, 0, 0, b"\0\1\0\0\0\0\0\5\0\0\x40\0"), (4, 1, 0, b""),
            (6, 0, 0, b"12345678"), (8, 0, 0, b"\0\0\1\0"), (8, 0, 1, b"\0\0\0\1"), (8, 0, 3, b"\0\0\0\0"),
            (3, 0, 1, b"\0\0\0\x08"), (7, 0, 0, b"\0\0\0\1\0\0\0\0"), (2, 0, 3, b"\0\0\0\1\0"),
            (0, 1, 1, b"body"), (0, 8, 3, b"\2abcd"), (77, 0, 0, b"x"),
        ]
    ]  # fmt: skip
    found: dict[str, list[bytes]] = {"h2_server": list(control), "h2_client": list(control)}
    for target, heads in (("h2_server", requests), ("h2_client", responses)):
        for i, block in enumerate(heads):
            stream = 2 * (i % 4) + 1
            whole = frame(1, 4 | i & 1, stream, block)
            cut = frame(1, 0, stream, block[:3]) + frame(9, 4, stream, block[3:])
            end = frame(1, 5, stream, trailers[i % len(trailers)])
            body = frame(0, 0, stream, b"x" * 20)
            found[target] += [whole, cut + end, whole + body + frame(0, 1, stream, b"y"), cut + body + end]
            found[target] += [whole + part + body for part in control]
        # each head on a stream of its own, then all that has no head
        found[target].append(
            b"".join(frame(1, 4, 2 * i + 1, block) for i, block in enumerate(heads)) + b"".join(control)
        )
    return found | {"bridge_request": requests, "bridge_response": responses, "bridge_trailers": trailers}


def golden() -> dict[str, list[bytes]]:
    """Target -> inputs made of the golden cases."""
    found: dict[str, list[bytes]] = {"request": [], "response": [], "chunked": [], "authority": []}
    for path in sorted(CASES.glob("*.md")):
        for case in cases_of(path):
            kind = "response" if case.meta.get("type") == "response" else "request"
            found[kind].append(case.data)
            head, _, body = case.data.partition(b"\r\n\r\n")
            if b"chunked" in head.lower() and body:
                found["chunked"].append(body)
            found["authority"] += [
                line[5:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"host:")
            ]
    found |= hpack() | http2()
    found |= {"carry_request": found["request"], "carry_response": found["response"]}
    found["client_hello"] = hellos.some()
    lines = (
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO a\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    )
    found["sniff"] = [*hellos.some(), *lines]
    return {kind: list(dict.fromkeys(inputs)) for kind, inputs in found.items()}


def inputs(target: str) -> list[bytes]:
    """All that a run over this target begins with."""
    kept = sorted((CORPUS / target).glob("*"))
    return [split + data for data in golden()[target] for split in SPLITS] + [
        path.read_bytes() for path in kept
    ]
