"""One spelling for each path: what goes on, what is judged, and what is refused."""

from __future__ import annotations

import posixpath
import random
from urllib.parse import unquote_to_bytes

import pytest
from shim.authz_shim import normalize


@pytest.mark.parametrize(
    ("path", "sent", "judged"),
    [
        (b"/", b"/", b"/"),
        (b"*", b"*", b"*"),
        (b"/a/b", b"/a/b", b"/a/b"),
        (b"//admin", b"/admin", b"/admin"),
        (b"/a//b///c/", b"/a/b/c/", b"/a/b/c/"),
        (b"/./admin", b"/admin", b"/admin"),
        (b"/a/../admin", b"/admin", b"/admin"),
        (b"/a/%2e%2E/admin", b"/admin", b"/admin"),
        (b"/a/.%2e/admin", b"/admin", b"/admin"),
        (b"/a//../admin", b"/admin", b"/admin"),
        (b"/a/..", b"/", b"/"),
        (b"/a/b/..", b"/a/", b"/a/"),
        (b"/a/.", b"/a/", b"/a/"),
        (b"/%61dmin", b"/admin", b"/admin"),
        (b"/%41dmin%7e", b"/Admin~", b"/Admin~"),
        (b"/a%20b", b"/a%20b", b"/a b"),
        (b"/a%3fb", b"/a%3Fb", b"/a?b"),
        (b"/x%21", b"/x%21", b"/x!"),
        (b"/%c3%a9", b"/%C3%A9", "/\u00e9".encode()),
        (b"/100%25", b"/100%25", b"/100%"),
        (b"/a...b/...", b"/a...b/...", b"/a...b/..."),
        (b"/.hidden", b"/.hidden", b"/.hidden"),
    ],
)
def test_one_spelling(path: bytes, sent: bytes, judged: bytes) -> None:
    assert normalize(path) == (sent, judged)
    assert normalize(sent) == (sent, judged)


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"admin",
        b"",
        b"*/",
        b"/a/../..",
        b"/%2e%2e/admin",
        b"/a%2fb",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a\\b",
        b"/admin;x",
        b"/admin%3bx",
        b"/..;/admin",
        b"/a%00",
        b"/a%0d%0a",
        b"/a%7f",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/%252e%252e/admin",
        b"/%252fadmin",
        b"/a#b",
        b"/a b",
        b"/\xc3\xa9",
        b"/%c0%af",
        b"/%e0%80%af",
        b"/%c1%81dmin",
        b"/%ed%a0%80",
        b"/%f5%80%80%80",
        b"/%ff",
        b"/%c3",
    ],
)
def test_refused(path: bytes) -> None:
    assert normalize(path) is None


def test_against_python() -> None:
    r = random.Random(5)
    pieces = [b"/", b"/", b"..", b".", b"a", b"%2e", b"%61", b"%21", b"%C3%A9", b"b"]
    for _ in range(20_000):
        path = b"/" + b"".join(r.choices(pieces, k=r.randrange(12)))
        found = normalize(path)
        plain = unquote_to_bytes(path).decode()
        depth, climbs = 0, False
        for part in plain.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            climbs = climbs or depth < 0
        if climbs:
            assert found is None, path
            continue
        want = "/" + posixpath.normpath(plain).lstrip("/")
        if plain.rsplit("/", 1)[1] in ("", ".", "..") and want != "/":
            want += "/"
        assert found is not None and found[1] == want.encode(), path
        assert unquote_to_bytes(found[0]) == found[1]
