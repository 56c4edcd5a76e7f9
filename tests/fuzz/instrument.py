"""Builds proto/* and its fuzz shim with coverage counters and sanitizers, in a tree apart (build/fuzz).

Owns: the recipe of that build. Needs gcc and Cython, as the normal build does; the normal extensions
stay untouched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build/fuzz"
LIBRARY = TREE / "lib"
COUNTERS = ROOT / "tests/fuzz/counters.c"
SHIMS = [ROOT / f"tests/shim/{name}_fuzz.pyx" for name in ("h1", "hpack", "h2", "bridge", "hello")]
CHECKS = ROOT / "tests/shim/h2_check.pxd"
JOBS = 2
# sysconfig fills its tables lazily, which two threads must not do at once
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
INCLUDE = sysconfig.get_path("include")

DIRECTIVES = {
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}
CFLAGS = [
    "-O1",
    "-g",
    "-fPIC",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-fno-omit-frame-pointer",
    "-w",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fsanitize-coverage=trace-pc,trace-cmp",
    "-DCYTHON_WITHOUT_ASSERTIONS=1",
]


def sources() -> dict[Path, Path]:
    """Module path below LIBRARY (without suffix) -> .pyx."""
    core = ROOT / "src/fastmesh/_core"
    paths = [core / "base/buf.pyx", core / "base/pool.pyx", *sorted((core / "proto").glob("*.pyx"))]
    found = {path.relative_to(ROOT / "src").with_suffix(""): path for path in paths}
    return {**found, **{Path("shim") / path.stem: path for path in SHIMS}}


def generate(wanted: dict[Path, Path]) -> dict[Path, Path]:
    """Module path -> generated C."""
    from Cython.Build import cythonize
    from setuptools import Extension

    names = {".".join(module.parts): module for module in wanted}
    made = cythonize(
        [Extension(name, [str(wanted[names[name]])]) for name in names],
        build_dir=str(TREE / "c"),
        include_path=[str(ROOT / "src"), str(ROOT / "tests")],
        compiler_directives={"language_level": 3, **DIRECTIVES},
        emit_linenums=True,
        quiet=True,
    )
    return {names[extension.name]: Path(extension.sources[0]) for extension in made}


def newest_input() -> float:
    inputs = [*(ROOT / "src/fastmesh/_core").rglob("*.p[xy]*"), *SHIMS, CHECKS, COUNTERS, Path(__file__)]
    return max(path.stat().st_mtime for path in inputs)


def compile_module(module: Path, source: Path) -> None:
    target = LIBRARY / module.with_suffix(SUFFIX)
    target.parent.mkdir(parents=True, exist_ok=True)
    include = f"-I{INCLUDE}"
    objects = [TREE / f"{module.name}.o", TREE / f"{module.name}.counters.o"]
    for code, made, flags in ((source, objects[0], CFLAGS), (COUNTERS, objects[1], ["-O2", "-fPIC"])):
        subprocess.run(["gcc", *flags, include, "-c", str(code), "-o", str(made)], check=True)
    link = ["gcc", "-shared", "-fsanitize=undefined", *map(str, objects), "-o", str(target)]
    subprocess.run(link, check=True)


def packages(wanted: dict[Path, Path]) -> None:
    """The __init__ files that make LIBRARY importable."""
    for folder in {parent for module in wanted for parent in module.parents if parent.parts}:
        (LIBRARY / folder).mkdir(parents=True, exist_ok=True)
        origin = (ROOT / "tests" if folder.parts[0] == "shim" else ROOT / "src") / folder / "__init__.py"
        shutil.copyfile(origin, LIBRARY / folder / "__init__.py")


def build() -> Path:
    """The directory to import from; builds what is out of date."""
    stamp = TREE / "stamp"
    if stamp.exists() and stamp.stat().st_mtime >= newest_input():
        return LIBRARY
    TREE.mkdir(parents=True, exist_ok=True)
    wanted = sources()
    generated = generate(wanted)
    packages(wanted)
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(lambda module: compile_module(module, generated[module]), generated))
    stamp.write_text("")
    return LIBRARY


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
