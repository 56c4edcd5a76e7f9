"""What of a service's fragment a client of this namespace with these labels gets."""

from __future__ import annotations

from typing import Any

import pytest

from fastmesh.compile.fragment import localize


def fragment(*sources: dict[str, Any] | None) -> Any:
    routes = [
        {"name": str(i), **({"source": source} if source is not None else {})}
        for i, source in enumerate(sources)
    ]
    host = {
        "name": "h",
        "domains": ["h.shop"],
        "local_domains": ["h"],
        "namespace": "shop",
        "routes": routes,
    }
    return {"host": "h", "virtual_hosts": [host], "clusters": [], "tls": [], "needs": []}


@pytest.mark.parametrize(
    ("source", "namespace", "labels", "there"),
    [
        (None, "a", {}, True),
        ({"labels": {"app": "web"}}, "a", {"app": "web", "version": "v1"}, True),
        ({"labels": {"app": "web"}}, "a", {"app": "api"}, False),
        ({"labels": {"app": "web", "version": "v2"}}, "a", {"app": "web", "version": "v1"}, False),
        ({"labels": {"version": "v2"}}, "a", {"app": "web"}, False),
        ({"namespace": "a"}, "a", {}, True),
        ({"namespace": "b"}, "a", {}, False),
        ({"namespace": "a", "labels": {"app": "web"}}, "a", {"app": "api"}, False),
    ],
)
def test_a_route_is_for_its_sources(
    source: dict[str, Any] | None, namespace: str, labels: dict[str, str], there: bool
) -> None:
    (host,) = localize(fragment(source, None), namespace, labels)
    assert host["routes"] == ([{"name": "0"}] if there else []) + [{"name": "1"}]


def test_the_bare_name_is_for_its_own_namespace() -> None:
    assert localize(fragment(), "shop", {})[0]["domains"] == ["h.shop", "h"]
    assert localize(fragment(), "other", {})[0]["domains"] == ["h.shop"]
