"""The fuzz corpus, and a fixed number of mutations of it, through the fuzz targets in the normal build."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shim import bridge_fuzz, h1_fuzz, h2_fuzz, hello_fuzz, hpack_fuzz

SHIMS = (h1_fuzz, hpack_fuzz, h2_fuzz, bridge_fuzz, hello_fuzz)

HERE = Path(__file__).parent
MUTATIONS = 20_000
RUN = {target: shim.run for shim in SHIMS for target in shim.TARGETS}


def load(name: str) -> ModuleType:
    """A module of this directory, by its file: the scripts import each other as scripts do."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


seeds = load("seeds")


def mutated(source: random.Random, inputs: list[bytes]) -> bytes:
    data = bytearray(source.choice(inputs))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        match source.randrange(4):
            case 0:
                data[at:at] = bytes([source.choice(b"\r\n\t :,;0a\x00\x7f\xff")])
            case 1:
                del data[at : at + source.randint(1, 8)]
            case 2:
                other = source.choice(inputs)
                begin = source.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + source.randint(1, 40)]
            case _:
                if at < len(data):
                    data[at] ^= 1 << source.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("target", RUN)
def test_corpus(target):
    inputs = seeds.inputs(target)
    assert len(inputs) > 20
    for data in inputs:
        RUN[target](target, data)


@pytest.mark.parametrize("target", RUN)
def test_mutations(target):
    inputs = seeds.inputs(target)
    source = random.Random(f"fastmesh {target}")
    for _ in range(MUTATIONS):
        RUN[target](target, mutated(source, inputs))


def test_without_atheris_fuzzing_is_skipped_with_a_reason(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'atheris' else found(name, *rest)\n"
    )
    path = ":".join([str(tmp_path), *(str(HERE.parents[1] / part) for part in ("src", "tests"))])
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "--seconds", "1"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "skipped: atheris is not installed" in done.stderr
