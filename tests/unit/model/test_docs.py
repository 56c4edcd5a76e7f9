"""The YAML in the docs is config that can be applied: a reader copies it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmesh.model.load import load_text
from fastmesh.model.validate import validate

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(page, block, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S))
]
HOSTS = ("reviews", "ratings", "ratings-next", "search", "checkout", "recommendations")


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_it_can_be_applied(page: Path, block: str) -> None:
    loaded = load_text(block, page.name)
    assert loaded.resources and not loaded.problems
    edge = any(r.kind == "Gateway" for r in loaded.resources)
    services = () if edge else [f"{host}.default.svc.cluster.local" for host in HOSTS]
    assert validate(loaded.resources, edge=edge, services=services) == []


def test_traffic_policy_is_among_them() -> None:
    assert sum(p.values[0] == ROOT / "docs" / "TRAFFIC.md" for p in BLOCKS) >= 6
