"""Config files and the exact IR that they become: golden/config/NAME.yaml -> NAME.json.

A change of the IR shows in review: FASTMESH_GOLDEN=write in the environment writes the files anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastmesh.compile.edge import compile_edge_file

FOLDER = Path(__file__).parent / "config"


def plain(value: Any) -> Any:
    """Bytes as text."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.yaml")))
def test_a_golden_config(name: str) -> None:
    made = plain(compile_edge_file(str(FOLDER / f"{name}.yaml")))
    golden = FOLDER / f"{name}.json"
    if os.environ.get("FASTMESH_GOLDEN") == "write":
        golden.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(golden.read_text())
