"""The extensions of fastmesh: one module per .pyx, listed by layer, one set of directives for all.

FASTMESH_TESTING=1     also builds the test shims (tests/shim/*.pyx).
FASTMESH_ASAN=1        builds everything with AddressSanitizer and UBSan and the macro FASTMESH_DEBUG (use
`make asan`). FASTMESH_ANNOTATE=1    writes Cython's annotated HTML beside the generated C, under
build/cython. FASTMESH_EXTENSIONS=0  builds none (the editable install: `make build` builds them in place
afterwards). FASTMESH_JOBS=N        how many compilers run at once, both Cython's and gcc's part (default 2).

Generated C lives under build/cython, never in the source tree. A module is rebuilt when its .pyx, a .pxd
that it cimports (directly or not), a header named in one of them, or its own flags changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CORE = ROOT / "src/fastmesh/_core"
BUILD = ROOT / "build"
GENERATED = BUILD / "cython"

# The order of the layers; which of them a file may cimport is in tests/test_layers.py.
LAYERS = ["base", "shm", "proto", "net", "policy", "proxy"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
}

# What a module links beyond libc, by its name. A module that calls OpenSSL, RE2 or libm itself stands here.
LIBRARIES = {
    "fastmesh._core.net.tls": ["ssl", "crypto"],
    "fastmesh._core.net.tls_ctx": ["ssl", "crypto"],
    "fastmesh._core.net.tls_lib": ["crypto"],
    "fastmesh._core.net.tls_peer": ["ssl", "crypto"],
    "fastmesh._core.net.tls_session": ["ssl", "crypto"],
    "fastmesh._core.net.conn": ["ssl", "crypto"],
    "fastmesh._core.proxy.bridge": ["crypto"],
    "fastmesh._core.base.regex": ["re2", "stdc++"],
    "fastmesh._core.policy.lb_ewma": ["m"],
    "fastmesh._core.policy.lb_warm": ["m"],
    "fastmesh._core.policy.outlier": ["m"],
}
# RE2 is C++: its wrapper is the only module compiled as such.
CPLUSPLUS = {"fastmesh._core.base.regex"}

TESTING = os.environ.get("FASTMESH_TESTING") == "1"
ASAN = os.environ.get("FASTMESH_ASAN") == "1"
ANNOTATE = os.environ.get("FASTMESH_ANNOTATE") == "1"
WANTED = os.environ.get("FASTMESH_EXTENSIONS") != "0"
JOBS = int(os.environ.get("FASTMESH_JOBS", "2"))

# -g always: with the line numbers in the generated C, perf and gdb show .pyx lines.
CFLAGS = [
    "-O2",
    "-g",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-sign-compare",
]
LDFLAGS: list[str] = []
MACROS: list[tuple[str, str | None]] = [("CYTHON_WITHOUT_ASSERTIONS", "1")]
if ASAN:
    SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    CFLAGS = [*CFLAGS, "-O1", *SANITIZE]
    LDFLAGS += SANITIZE
    MACROS.append(("FASTMESH_DEBUG", "1"))


def extension(name: str, source: Path) -> Extension:
    """The build recipe of one .pyx."""
    cpp = name in CPLUSPLUS
    return Extension(
        name,
        [str(source.relative_to(ROOT))],
        language="c++" if cpp else "c",
        libraries=LIBRARIES.get(name, []),
        extra_compile_args=[*CFLAGS, "-std=c++17"] if cpp else CFLAGS,
        extra_link_args=LDFLAGS,
        define_macros=MACROS,
    )


def extensions() -> list[Extension]:
    """Every module that this tree holds."""
    found = [
        extension(f"fastmesh._core.{layer}.{source.stem}", source)
        for layer in LAYERS
        for source in sorted((CORE / layer).glob("*.pyx"))
    ]
    if TESTING:
        found += [extension(f"shim.{s.stem}", s) for s in sorted((ROOT / "tests/shim").glob("*.pyx"))]
    return found


def forget_outdated(wanted: list[Extension]) -> None:
    """Drop the generated C of each module whose flags, directives or tools changed: times alone do not
    tell."""
    record = BUILD / "fingerprints.json"
    known: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    tools = [sys.version, Cython.__version__, DIRECTIVES, ANNOTATE]
    now = dict(known)
    for ext in wanted:
        recipe = [
            *tools,
            ext.language,
            ext.libraries,
            ext.extra_compile_args,
            ext.extra_link_args,
            ext.define_macros,
        ]
        now[ext.name] = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
        if known.get(ext.name) != now[ext.name]:
            source = GENERATED / ext.sources[0]
            for suffix in (".c", ".cpp"):
                source.with_suffix(suffix).unlink(missing_ok=True)
    if now != known:
        BUILD.mkdir(exist_ok=True)
        record.write_text(json.dumps(now, indent=1))


def modules() -> list[Extension]:
    """The extensions with their C generated."""
    wanted = extensions()
    forget_outdated(wanted)
    made: list[Extension] = cythonize(
        wanted,
        build_dir=str(GENERATED.relative_to(ROOT)),
        include_path=["src"],
        compiler_directives=DIRECTIVES,
        annotate=ANNOTATE,
        emit_linenums=True,
        nthreads=JOBS,
    )
    return made


class BuildExt(build_ext):
    """Keeps builds in place (with shims) and builds for a wheel apart, and a wheel free of modules that are
    gone."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.inplace:
            self.build_lib = str(BUILD / "inplace")

    def run(self) -> None:
        super().run()
        if not self.inplace:
            wanted = {Path(self.get_ext_fullpath(ext.name)).resolve() for ext in self.extensions}
            for binary in Path(self.build_lib).resolve().rglob("*.so"):
                if binary not in wanted:
                    binary.unlink()


setup(ext_modules=modules() if WANTED else [], cmdclass={"build_ext": BuildExt})
