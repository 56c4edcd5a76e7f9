"""supervisor/arbiter.py where the system has nothing left to give: what serves goes on serving."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from fastmesh.supervisor import arbiter, compiler
from fastmesh.supervisor.arbiter import Arbiter
from fastmesh.supervisor.log import Log


def refuse(*args: object, **options: object) -> Any:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(Log, "write", lambda self, level, message, fields: said.append(f"{level} {message}"))
    return said


@pytest.fixture
def edge() -> Arbiter:
    spec: Any = {"role": "edge", "file": "edge.yaml", "node_id": "n", "locality": ""}
    return Arbiter(spec, Log("test"), refuse, refuse, refuse)


def test_a_reload_without_a_process_for_it_is_refused_and_leaks_nothing(
    edge: Arbiter, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "fork", refuse)
    before = os.listdir("/proc/self/fd")
    edge._reload()
    assert lines[-1] == "error reload refused: Resource temporarily unavailable; the old config serves on"
    assert os.listdir("/proc/self/fd") == before
    assert not edge._busy(), "the next one is tried"


def test_without_a_descriptor_for_its_channel_the_agent_is_tried_again(
    edge: Arbiter, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arbiter.Channel, "pair", staticmethod(refuse))
    edge._start_agent()
    assert "no agent can be started" in lines[-1]
    assert edge._agent == 0 and edge._agent_due > 0
