"""How every HTTP/1 input is fed in tests: whole, at each split, byte by byte, with bytes behind."""

from __future__ import annotations

from typing import Any

from shim import h1_shim as h1

AGAIN = -1
CODES = {
    "EBAD": -20,
    "EFRAMING": -21,
    "ETARGET": -22,
    "EHEAD": -23,
    "EVERSION": -24,
    "ETE": -25,
    "EHOST": -26,
    "EMETHOD": -27,
    "ECHUNK": -28,
    "ETRAILER": -29,
    "EEXPECT": -30,
}
NAMES = {code: name for name, code in CODES.items()} | {AGAIN: "AGAIN"}
BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_CLOSE, BODY_TUNNEL = range(5)
TRAILING = (b"G", b"\r\n", b"\x00", b"HTTP/1.1 200 OK\r\n\r\n", b" folded\r\n\r\n")
# Inputs longer than this are split at sampled points: every point of a 60 KiB head would take minutes.
EVERY_SPLIT_UP_TO = 1200


def split_points(n: int) -> range:
    return range(1, n, 1 if n <= EVERY_SPLIT_UP_TO else n // 97 + 1)


def head(
    data: bytes, *, response: bool = False, request_method: int = 1
) -> tuple[int, dict[str, Any] | None]:
    """Parse a head in all manners of arrival and insist on one answer; (code or length, Msg as a dict)."""
    rc, msg = h1.head(data, response, 0, request_method)
    assert rc != 0 and (rc in NAMES or 0 < rc <= len(data))
    end = rc if rc > 0 else len(data)
    last = 0
    for cut in split_points(end):  # bytes dribble in: each call knows what the one before had seen
        code = h1.head_code(data[:cut], response, last)
        assert code == AGAIN or (code == rc and rc < 0), (data[:cut], last, code, rc)
        fresh = h1.head_code(data[:cut], response, 0)
        assert fresh == AGAIN or (fresh == rc and rc < 0), (data[:cut], fresh, rc)
        if code != AGAIN:
            break
        last = cut
        # the short cut for slow senders must not hide what the complete input gives
        code = h1.head_code(data, response, cut)
        assert code == rc or (fresh == rc and rc < 0), (cut, code, rc)
    if rc != AGAIN:
        for behind in TRAILING:
            assert h1.head(data + behind, response, 0, request_method) == (rc, msg), behind
    return rc, msg


def body(
    data: bytes, kind: int = BODY_CHUNKED, length: int = -1
) -> tuple[int, bytes, bytes | None, dict[str, Any]]:
    """Decode a body in all manners of arrival; (code, content, bytes behind the body or None, state)."""
    whole = h1.Body(kind, length)
    code, content, rest = whole.feed(data)
    results = {(code, rest)}
    for cut in split_points(len(data)):
        b = h1.Body(kind, length)
        got_code, piece, got_rest = b.feed(data[:cut])
        if got_code == 0:
            if got_rest is None:
                got_code, more, got_rest = b.feed(data[cut:])
                piece += more
            else:
                got_rest += data[cut:]
        results.add((got_code, got_rest))
        assert piece == content or code < 0, (cut, piece, content)
    b = h1.Body(kind, length)
    out, got_code, got_rest = b"", 0, None
    for i in range(len(data)):
        got_code, piece, got_rest = b.feed(data[i : i + 1], 1)
        out += piece
        if got_code or got_rest is not None:
            got_rest = None if got_code else (got_rest or b"") + data[i + 1 :]
            break
    results.add((got_code, got_rest))
    assert results == {(code, rest)}, results
    assert out == content or code < 0
    return code, content, rest, whole.state
