"""Tests of the data plane under AddressSanitizer and UBSan, in a build tree of its own (build/asan).

The sources are mirrored there with their times, so that only what changed is built again, and the normal
extensions of the checkout are never touched. Arguments go to pytest, e.g. `tools/asan.py -x -k chunk`; a path
among them (below tests/) replaces the default selection.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build/asan"
MIRRORED = ("src", "control", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SUFFIXES = {".so", ".pyc"}

# Tests of `_core`: alone, and as a worker forked from the test. What starts other programs is tested with the
# normal build.
LAYERS = ("base", "shm", "proto", "net", "policy", "proxy")
WHERE = (
    *(f"tests/unit/{layer}" for layer in LAYERS),
    "tests/differential",
    "tests/fuzz/test_snapshots.py",
    "tests/integration/test_http1_*.py",
    "tests/integration/test_tcp.py",
)


def sources(root: Path) -> dict[Path, Path]:
    """Relative name -> file, for what a build and its tests need."""
    found: dict[Path, Path] = {}
    for name in MIRRORED:
        top = root / name
        files = [top] if top.is_file() else top.rglob("*")
        for path in files:
            if path.is_file() and path.suffix not in SUFFIXES and "__pycache__" not in path.parts:
                found[path.relative_to(root)] = path
    return found


def mirror() -> None:
    """Make TREE hold the sources of ROOT, copying only what differs."""
    here, there = sources(ROOT), sources(TREE)
    for name in there.keys() - here.keys():
        there[name].unlink()
        for binary in there[name].parent.glob(f"{name.stem}.*.so"):
            binary.unlink()
    for name, path in here.items():
        target = TREE / name
        state = path.stat()
        if target.exists():
            known = target.stat()
            if (known.st_mtime_ns, known.st_size) == (state.st_mtime_ns, state.st_size):
                continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def runtime(name: str) -> str:
    """Where gcc keeps a sanitizer's library."""
    done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return os.path.realpath(done.stdout.strip())


def environment() -> dict[str, str]:
    """For Python under the sanitizers: the preloaded runtime must come first, and each block must be seen."""
    env = dict(os.environ)
    env.pop("PYTHONPATH", None)
    env |= {
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so.6')}",
        "PYTHONMALLOC": "malloc",
        # CPython itself keeps memory until its end; what `_core` loses shows in the pools' live counts.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": os.pathsep.join(str(TREE / part) for part in ("src", "control", "tests")),
    }
    return env


def main(arguments: list[str]) -> int:
    """Mirror, build, run pytest; its status."""
    mirror()
    switches = {"FASTMESH_ASAN": "1", "FASTMESH_TESTING": "1", "PYTHONPATH": str(TREE / "src")}
    jobs = os.environ.get("FASTMESH_JOBS", "2")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", jobs]
    subprocess.run(build, cwd=TREE, env={**os.environ, **switches}, check=True)
    # A sanitizer writes to stderr and aborts: captured by pytest, its report would be lost.
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=sys", "--timeout=600"]
    if not any(argument.startswith("tests/") for argument in arguments):
        found = [path for where in WHERE for path in sorted(TREE.glob(where))]
        arguments = [*arguments, *(str(path.relative_to(TREE)) for path in found)]
    return subprocess.run([*pytest, *arguments], cwd=TREE, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
