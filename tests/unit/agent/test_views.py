"""agent/views.py: what is shown holds no secret, wherever a file's path may have pointed."""

from __future__ import annotations

import pytest

from fastmesh.agent.views import REDACTED, redacted
from helpers.certs import Authority

LEAF = Authority().leaf()


@pytest.mark.parametrize("part", ["cert", "ca"])
def test_a_file_that_holds_a_key_beside_certificates_shows_these_alone(part: str) -> None:
    shown = redacted({"tls": [{"name": "x", part: LEAF.key + LEAF.cert + LEAF.key, "key": LEAF.key}]})
    assert "PRIVATE KEY" not in str(shown)
    assert shown["tls"][0][part].encode().split() == LEAF.cert.split()
    assert shown["tls"][0]["key"] == REDACTED


@pytest.mark.parametrize(
    "content", [b"\x81secret-----BEGIN ", LEAF.key, b"-----BEGIN CERTIFICATE-----\n" + LEAF.key]
)
def test_what_is_no_certificate_is_not_shown(content: bytes) -> None:
    assert redacted({"ca": content}) == {"ca": REDACTED}
