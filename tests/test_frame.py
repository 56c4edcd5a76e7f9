"""The frame itself: what a build rebuilds, what a wheel and an sdist carry, what the Makefile promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers.cysource import ROOT

SMALL = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "src", "control", "tests/shim", "tools")
PACKAGES = ("__init__.py", "__init__.pxd")
NOUN = "fastmesh/_core/base/sample"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """This checkout's build files and packages, with two small modules instead of the data plane."""
    for name in SMALL:
        source = ROOT / name
        if source.is_file():
            shutil.copy2(source, tmp_path / name)
            continue
        skip = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "*.pyx")
        shutil.copytree(source, tmp_path / name, ignore=skip)
    for path in (tmp_path / "src/fastmesh/_core").rglob("*.p[xy]*"):
        if path.name not in PACKAGES:
            path.unlink()
    base = tmp_path / "src" / NOUN
    base.with_suffix(".pxd").write_text("cdef enum:\n    SAMPLE = 1\ncdef int sample() noexcept nogil\n")
    base.with_suffix(".pyx").write_text("cdef int sample() noexcept nogil:\n    return SAMPLE\n")
    shim = "from fastmesh._core.base.sample cimport sample\ndef value():\n    return sample()\n"
    (tmp_path / "tests/shim/sample_shim.pyx").write_text(shim)
    other = tmp_path / "src/fastmesh/_core/base/other.pyx"
    other.write_text("cdef public int other() noexcept nogil:\n    return 2\n")
    return tmp_path


def build(tree: Path, **switches: str) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree, env={**os.environ, "FASTMESH_TESTING": "1", **switches}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def binaries(tree: Path) -> dict[str, int]:
    """Module -> modification time of its extension in the source tree."""
    found = [path for part in ("src", "tests") for path in (tree / part).rglob("*.so")]
    return {path.name.split(".")[0]: path.stat().st_mtime_ns for path in found}


def value(tree: Path) -> str:
    code = "import shim.sample_shim as s; print(s.value())"
    paths = os.pathsep.join((str(tree / "src"), str(tree / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr


def test_only_what_changed_is_built_again(tree):
    build(tree)
    first = binaries(tree)
    assert set(first) == {"sample", "other", "sample_shim"}
    assert value(tree) == "1"

    build(tree)
    assert binaries(tree) == first, "nothing changed, so nothing is to be built"

    declaration = (tree / "src" / NOUN).with_suffix(".pxd")
    declaration.write_text(declaration.read_text().replace("SAMPLE = 1", "SAMPLE = 7"))
    build(tree)
    second = binaries(tree)
    assert {name for name in first if second[name] != first[name]} == {"sample", "sample_shim"}
    assert value(tree) == "7"

    recipe = (tree / "setup.py").read_text()
    linked = recipe.replace("LIBRARIES = {", 'LIBRARIES = {\n    "fastmesh._core.base.other": ["m"],')
    assert linked != recipe
    (tree / "setup.py").write_text(linked)
    build(tree)
    third = binaries(tree)
    assert {name for name in second if third[name] != second[name]} == {"other"}
    assert not list((tree / "src").rglob("*.c")), "generated C belongs under build/"


def package(tree: Path, kind: str, **switches: str) -> list[str]:
    """The file names inside a freshly made sdist or wheel."""
    out = tree / "out"
    out.mkdir()
    code = f"from setuptools import build_meta as b; b.build_{kind}({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **switches}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    if kind == "sdist":
        with tarfile.open(made) as archive:
            return [name.partition("/")[2] for name in archive.getnames()]
    with zipfile.ZipFile(made) as archive:
        return archive.namelist()


def test_a_wheel_carries_the_extensions_and_no_sources(tree):
    build(tree)  # with shims: they must not end up in the wheel
    names = package(tree, "wheel")
    assert {Path(name).name.split(".")[0] for name in names if name.endswith(".so")} == {"sample", "other"}
    assert "fastmesh/py.typed" in names and "fastmesh_control/__init__.py" in names
    assert not [name for name in names if name.endswith((".pyx", ".pxd", ".c", ".cpp"))]
    assert not [name for name in names if name.startswith(("shim", "tests"))]


def test_an_sdist_carries_what_cython_reads_and_not_what_it_writes(tree):
    build(tree)
    names = package(tree, "sdist")
    assert {f"src/{NOUN}.pyx", f"src/{NOUN}.pxd", "tests/shim/sample_shim.pyx", "tools/build"} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".cpp", ".so"))]


def test_help_names_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    assert re.findall(r"^  make (\w+) +\S", done.stdout, re.M) == phony[1].split()


def test_missing_packages_are_named_in_one_line_when_not_root(tmp_path):
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    script = ". tools/lib.sh; need_packages gcc libssl-dev; echo not reached"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "fastmesh: missing system packages; run as root: apt-get install -y gcc libssl-dev\n"
    )
