"""supervisor/cpus.py"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastmesh.supervisor import cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000", 0.5), ("bad", None)],
)
def test_version_2_quota(tmp_path: Path, text: str, expected: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpus.quota(str(tmp_path)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("250000", 2.5)])
def test_version_1_quota(tmp_path: Path, quota: str, expected: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpus.quota(str(tmp_path)) == expected


def test_usable_is_rounded_up_and_never_more_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert cpus.usable(str(tmp_path)) == 4
    for text, expected in (("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 4)):
        (tmp_path / "cpu.max").write_text(text)
        assert cpus.usable(str(tmp_path)) == expected
