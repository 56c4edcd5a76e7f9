"""The page that users read says what the schemas do."""

from __future__ import annotations

from pathlib import Path

from fastmesh.model.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "CONFIG.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "python -m fastmesh.model.reference > docs/CONFIG.md"
