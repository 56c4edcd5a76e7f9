"""What a snapshot holds of routes and clusters, `explain` shows: a field that is added is a line there, or is
named here with the reason why not."""

from __future__ import annotations

import re

import pytest

from fastmesh._core.proxy import explain
from fastmesh.commands import explained
from helpers.cysource import CORE
from helpers.irconf import cluster, config, packed, route, vhost

DECLARED = (CORE / "shm/snapshot.pxd").read_text()
SHOWN = (CORE / "proxy/explain.pyx").read_text()

# Of no meaning beyond the data path, or nothing that a config can fill yet.
NOT_SHOWN = {
    "SnapRoute": {
        "action",  # an index
        "reserved0",
        "reserved1",
        "reserved",
    },
    "SnapAction": {
        "reserved0",
        "reserved",
    },
    "SnapCluster": {
        "id",
        "total_weight",
        "tls_policy",
        "rr_stride",
        "hash_table",
        "reserved0",
        "reserved1",
    },
    "SnapOutlier": {
        "reserved0",
        "reserved",
    },
    "SnapEndpoint": {"family", "port", "addr", "upto", "tag", "reserved"},
    "SnapCond": {"hid", "regex"},
    "SnapMirror": set(),
    "SnapLevel": {"rr_stride", "hash_table", "reserved"},
}
VARIABLE = {
    "SnapRoute": "r",
    "SnapAction": "a",
    "SnapCluster": "c",
    "SnapOutlier": "o",
    "SnapEndpoint": "e",
    "SnapCond": "c",
    "SnapMirror": r"m\[i\]",
    "SnapLevel": r"lv\[i\]",
}


def fields(struct: str) -> list[str]:
    found = re.search(rf"^cdef struct {struct}:.*\n((?:    .*\n)+)", DECLARED, re.M)
    assert found
    lines = [line.partition("#")[0].strip() for line in found[1].splitlines()]
    return [re.sub(r"\[.*\]", "", line.split()[-1]) for line in lines if line]


@pytest.mark.parametrize("struct", NOT_SHOWN)
def test_every_field_is_shown(struct: str) -> None:
    known = fields(struct)
    assert len(known) > 1 and NOT_SHOWN[struct] <= set(known)
    shown = {name for name in known if re.search(rf"\b{VARIABLE[struct]}\.{name}\b", SHOWN)}
    assert set(known) - shown == NOT_SHOWN[struct]


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("ON_", explain.ON),
        ("OP_", explain.OPS),
        ("ACT_", explain.ACTIONS),
        ("RW_", explain.REWRITES),
        ("HOP_", explain.HDR_OPS),
        ("LB_", explain.BALANCING),
        ("HASH_", {**explain.HASH_ON, 0: "none"}),
        ("L_", explain.KINDS),
    ],
)
def test_every_number_has_a_name(prefix: str, names: dict[int, str]) -> None:
    first = re.search(rf"^cdef enum:.*\n((?:    {prefix}.*\n)+)", DECLARED, re.M)
    assert first
    assert len(names) == len(first[1].splitlines())


def test_what_no_line_speaks_of_is_shown_as_it_is() -> None:
    made = config(vhost(["a"], route()), clusters=[cluster("c", 1)])
    found = explain.explain(packed(made), "outbound", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False)
    action = found["action"]
    assert set(action) <= set(explained.OF_ACTION)
    assert set(action["destinations"][0]["cluster"]) <= set(explained.CLUSTER)
    text = explained.Text()
    text.fields({**action, "brand_new": {"a": 1}, "off": 0}, explained.OF_ACTION)
    assert 'brand_new      {"a": 1}' in text.lines
    assert not any(line.startswith("off") for line in text.lines)
