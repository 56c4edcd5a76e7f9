"""Servers with the keep-alive times that they have when nobody says anything, for a minute each."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import servers
from helpers.paced import waves

SECONDS = 60


@pytest.mark.parametrize("methods", [["GET"], ["POST"], ["POST", "GET"]], ids="-".join)
@pytest.mark.parametrize("name", servers.NAMES)
def test_no_client_sees_the_end_of_an_idle_connection(tmp_path: Path, name: str, methods: list[str]) -> None:
    kept = servers.DEFAULTS[name]
    with servers.started(name, tmp_path, kept) as up, servers.edge(tmp_path, up) as (port, edge):
        seen = waves(port, kept + servers.TAKES, SECONDS // kept, methods, clients=40)
        assert set(seen) == {200}, seen
        ended = edge.stat("up_cx_idle_closed") + edge.stat("up_cx_idle_timeout")
        assert ended + edge.stat("rq_retry_reused") > 0, "no connection came to its end"
