"""The extensions of fastmesh: one module per .pyx, listed by layer, one set of directives for all.

FASTMESH_TESTING=1  also builds the test shims (tests/shim/*.pyx).
FASTMESH_ASAN=1     builds everything with AddressSanitizer and UBSan (use `make asan`).
FASTMESH_ANNOTATE=1 writes Cython's annotated HTML (for the nogil gate).
"""
from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
CORE = ROOT / "src/fastmesh/_core"

# Lowest first; a file imports only from layers above it in this list (tests/test_layers.py holds the exact rule).
LAYERS = ["base", "shm", "proto", "net", "policy", "proxy"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
}

# What a module links beyond libc, by its name.
LIBRARIES = {
    "fastmesh._core.net.tls": ["ssl", "crypto"],
    "fastmesh._core.net.tls_ctx": ["ssl", "crypto"],
    "fastmesh._core.net.conn": ["ssl", "crypto"],
    "fastmesh._core.base.regex": ["re2", "stdc++"],
}
# RE2 is C++: its wrapper is the only module compiled as such.
CPLUSPLUS = {"fastmesh._core.base.regex"}

TESTING = os.environ.get("FASTMESH_TESTING") == "1"
ASAN = os.environ.get("FASTMESH_ASAN") == "1"
ANNOTATE = os.environ.get("FASTMESH_ANNOTATE") == "1"

CFLAGS = [
    "-O2", "-g", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wextra",
    "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers", "-Wno-cast-function-type",
    "-Wno-sign-compare",
]
LDFLAGS: list[str] = []
if ASAN:
    SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    CFLAGS = [*CFLAGS, "-O1", *SANITIZE]
    LDFLAGS += SANITIZE


def extension(name: str, source: Path) -> Extension:
    cpp = name in CPLUSPLUS
    return Extension(
        name,
        [str(source.relative_to(ROOT))],
        language="c++" if cpp else "c",
        libraries=LIBRARIES.get(name, []),
        extra_compile_args=[*CFLAGS, "-std=c++17"] if cpp else CFLAGS,
        extra_link_args=LDFLAGS,
        define_macros=[("CYTHON_WITHOUT_ASSERTIONS", "1"), *([("FASTMESH_TESTING", "1")] if TESTING else [])],
    )


def extensions() -> list[Extension]:
    found = [
        extension(f"fastmesh._core.{layer}.{source.stem}", source)
        for layer in LAYERS
        for source in sorted((CORE / layer).glob("*.pyx"))
    ]
    if TESTING:
        found += [extension(f"shim.{s.stem}", s) for s in sorted((ROOT / "tests/shim").glob("*.pyx"))]
    return found


setup(
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        compiler_directives=DIRECTIVES,
        annotate=ANNOTATE,
        emit_linenums=ASAN,
        nthreads=int(os.environ.get("FASTMESH_JOBS", "2")),
    ),
)
