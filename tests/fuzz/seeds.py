"""Where fuzzing starts: the golden cases, and the inputs that once opened a new path (corpus/TARGET/*)."""

from __future__ import annotations

from pathlib import Path

from helpers.golden_h1 import CASES, cases_of

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
# A fuzz input begins with two bytes that say where it is split; see shim/h1_fuzz.pyx.
SPLITS = (b"\x00\x00", b"\x07\x01")


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
    return {kind: list(dict.fromkeys(inputs)) for kind, inputs in found.items()}


def inputs(target: str) -> list[bytes]:
    """All that a run over this target begins with."""
    kept = sorted((CORPUS / target).glob("*"))
    return [split + data for data in golden()[target] for split in SPLITS] + [
        path.read_bytes() for path in kept
    ]
