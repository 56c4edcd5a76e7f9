"""Where fuzzing starts: the golden cases, and the inputs that once opened a new path (corpus/TARGET/*)."""

from __future__ import annotations

from pathlib import Path

from helpers.golden_h1 import CASES, cases_of
from helpers.golden_hpack import REFUSED, STORIES

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
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
    found |= hpack()
    return {kind: list(dict.fromkeys(inputs)) for kind, inputs in found.items()}


def inputs(target: str) -> list[bytes]:
    """All that a run over this target begins with."""
    kept = sorted((CORPUS / target).glob("*"))
    return [split + data for data in golden()[target] for split in SPLITS] + [
        path.read_bytes() for path in kept
    ]
