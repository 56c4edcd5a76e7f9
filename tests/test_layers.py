"""Gate: imports run one way. Circular cimports compile silently, so this test is what holds the layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from helpers.cysource import CORE, ROOT, cimports, core_files, is_border, logical_lines

# What a layer of _core may cimport beside itself. "proxy" is the only layer that sees both sides.
SEES = {
    "base": (),
    "shm": ("base",),
    "proto": ("base",),
    "net": ("base", "shm"),
    "policy": ("base", "shm", "proto.msg"),
    "proxy": ("base", "shm", "proto", "net", "policy"),
}

# Headers of types, of what the compiler inlines, and of nothing that talks to the system.
HARMLESS = r"stdint|stddef|string|\w*mmintrin|arm_neon"

# What a Python package must not load when it is imported, directly or through other modules of ours.
HEAVY = {"pydantic", "starlette", "uvicorn", "yaml", "cryptography"}
NOT_LOADED_BY = {
    "fastmesh.supervisor": {"asyncio", "uvloop", "zmq"} | HEAVY,
    "fastmesh.agent": set(HEAVY),
}


# --- cimports of _core


def cimport_faults(layer: str, source: str, *, border: bool = False) -> list[str]:
    """Which statements of a file in this layer reach for what it must not see."""
    prefix = "fastmesh._core."
    allowed = tuple(f"{prefix}{name}" for name in (layer, *SEES[layer]))
    faults = []
    for line, module in cimports(logical_lines(source)):
        if module.startswith("."):
            faults.append(f"{line.first}: relative cimport: {line.text}")
        elif module.startswith(prefix):
            if not any(module == name or module.startswith(f"{name}.") for name in allowed):
                faults.append(f"{line.first}: {layer} must not see {module.removeprefix(prefix)}")
        elif module.split(".")[0] == "fastmesh":
            if module not in ("fastmesh", "fastmesh._core"):
                faults.append(f"{line.first}: {module} is outside _core")
        elif module.split(".")[0] not in ("libc", "cython") and not border:
            faults.append(f"{line.first}: {module}: externs live in base/sys.pxd and base/openssl.pxd")
    return list(dict.fromkeys(faults))


def include_faults(source: str) -> list[str]:
    """Includes and named extern blocks; a verbatim block (a table, an assert) may include types only."""
    faults = [
        f"{number}: {text.strip()}"
        for number, text in enumerate(source.splitlines(), 1)
        if re.match(rf"\s*#include(?! *<(?:{HARMLESS})\.h>)", text)
    ]
    return faults + [
        f"{line.first}: {line.text}"
        for line in logical_lines(source)
        if line.text.startswith("cdef extern from") and "from *" not in line.text
    ]


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """One cycle of the graph, as the names along it; empty when there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for after in sorted(graph.get(node, ())):
            if found := walk(after, [*path, node]):
                return found
        done.add(node)
        return []

    for start in sorted(graph):
        if found := walk(start, []):
            return found
    return []


@pytest.mark.parametrize("layer", SEES)
def test_core_files_see_only_their_layers(layer):
    faults = [
        f"{path.relative_to(CORE)}:{fault}"
        for path in core_files(".pyx", ".pxd")
        if path.relative_to(CORE).parts[0] == layer
        for fault in cimport_faults(layer, path.read_text(), border=is_border(path))
    ]
    assert not faults, "\n".join(faults)


def test_every_core_file_belongs_to_a_layer():
    homes = {path.relative_to(CORE).parts[0] for path in core_files(".pyx", ".pxd")}
    assert homes <= {*SEES, "__init__.pxd"}


def test_system_headers_are_included_by_base_only():
    faults = [
        f"{path.relative_to(CORE)}:{fault}"
        for path in core_files(".pyx", ".pxd")
        if path.relative_to(CORE).parts[0] != "base"
        for fault in include_faults(path.read_text())
    ]
    assert not faults, "\n".join(faults)


def test_declarations_have_no_cycle():
    root = CORE.parent.parent
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in core_files(".pxd")}
    known = set(names.values())
    graph = {
        name: {module for _, module in cimports(logical_lines(path.read_text())) if module in known}
        for path, name in names.items()
    }
    assert cycle(graph) == []


def test_the_cimport_gate_fails_on_bad_samples():
    assert cimport_faults("proto", "from fastmesh._core.base.view cimport Slice\n") == []
    assert cimport_faults("policy", "from fastmesh._core.proto.msg cimport Msg\n") == []
    assert cimport_faults("proxy", "from fastmesh._core.net cimport conn\n") == []
    upward = "from libc.stdint cimport (\n    uint8_t,\n)\nfrom fastmesh._core.net.conn cimport Conn\n"
    assert cimport_faults("proto", upward) == [
        "4: proto must not see net.conn",
        "4: proto must not see net.conn.Conn",
    ]
    assert cimport_faults("policy", "from fastmesh._core.proto.h1_head cimport x\n")
    assert cimport_faults("policy", "from fastmesh._core.proto cimport h1_head\n")
    assert cimport_faults("net", "cimport fastmesh._core.proto.msg as m\n")
    assert cimport_faults("net", "from ..proto.msg cimport Msg\n")
    assert cimport_faults("base", "from posix.unistd cimport read\n")
    assert cimport_faults("base", "from cpython.ref cimport PyObject\n")
    assert not cimport_faults("shm", "from cpython.bytes cimport PyBytes_AS_STRING\n", border=True)
    assert include_faults('cdef extern from *:\n    """\n    #include <time.h>\n    """\n')
    assert include_faults('cdef extern from "time.h" nogil:\n    pass\n')
    assert not include_faults('cdef extern from *:\n    """\n    #include <stdint.h>\n    """\n    enum: A\n')
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


# --- Python packages


def modules(*trees: Path) -> dict[str, Path]:
    """Module name -> file for each Python file under the given source roots."""
    found = {}
    for tree in trees:
        for path in sorted(tree.rglob("*.py")):
            parts = path.relative_to(tree).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, tree: ast.Module, *, package: bool, inner: bool) -> Iterator[tuple[int, str]]:
    """(line, module) for each import; inside functions only if `inner`, for type checkers never."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                anchor = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*anchor, *([base] if base else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
        elif inner or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


def import_table(files: Mapping[str, Path], *, inner: bool) -> dict[str, set[str]]:
    """Module -> what it imports."""
    return {
        name: {
            module
            for _, module in imports(
                name, ast.parse(path.read_text()), package=path.name == "__init__.py", inner=inner
            )
        }
        for name, path in files.items()
    }


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def chain_to(table: Mapping[str, set[str]], start: str, forbidden: set[str]) -> list[str]:
    """How importing `start` loads something forbidden: the modules along the way, empty if it does not."""
    queue, seen = [[start]], {start}
    while queue:
        path = queue.pop(0)
        for module in sorted(table.get(path[-1], ())):
            if any(within(module, name) for name in forbidden):
                return [*path, module]
            # importing a.b.c runs a and a.b too
            parts = module.split(".")
            for loaded in (".".join(parts[: n + 1]) for n in range(len(parts))):
                if loaded in table and loaded not in seen:
                    seen.add(loaded)
                    queue.append([*path, loaded])
    return []


FILES = modules(ROOT / "src", ROOT / "control")


@pytest.mark.parametrize("package", NOT_LOADED_BY)
def test_what_a_package_must_not_load(package):
    table = import_table(FILES, inner=False)
    chains = [chain_to(table, name, NOT_LOADED_BY[package]) for name in table if within(name, package)]
    faults = [" -> ".join(chain) for chain in chains if chain]
    assert not faults, "\n".join(faults)


def test_the_supervisor_imports_no_loop_even_later():
    table = import_table(FILES, inner=True)
    faults = [
        f"{name} imports {module}"
        for name, found in table.items()
        if within(name, "fastmesh.supervisor")
        for module in sorted(found)
        if any(within(module, bad) for bad in NOT_LOADED_BY["fastmesh.supervisor"])
    ]
    assert not faults, "\n".join(faults)


def control_faults(at_load: Mapping[str, set[str]], anywhere: Mapping[str, set[str]]) -> list[str]:
    """The data plane and the control plane keep apart: only commands may load the other, lazily."""
    faults = []
    for name, found in anywhere.items():
        for module in sorted(found):
            if within(name, "fastmesh") and within(module, "fastmesh_control"):
                if not any(within(name, part) for part in ("fastmesh.cli", "fastmesh.commands")):
                    faults.append(f"{name} imports {module}")
                elif module in at_load[name]:
                    faults.append(f"{name} imports {module} at module level")
            inner_parts = ("fastmesh._core", "fastmesh.agent", "fastmesh.supervisor")
            if within(name, "fastmesh_control") and any(within(module, part) for part in inner_parts):
                faults.append(f"{name} imports {module}")
    return faults


def test_control_plane_and_data_plane_keep_apart():
    faults = control_faults(import_table(FILES, inner=False), import_table(FILES, inner=True))
    assert not faults, "\n".join(faults)


def test_the_python_gates_fail_on_bad_samples(tmp_path):
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("fastmesh/__init__.py", "")
    write("fastmesh/supervisor/__init__.py", "")
    write("fastmesh/supervisor/arbiter.py", "from .. import util\nfrom . import listeners\n")
    write("fastmesh/supervisor/listeners.py", "import os\n")
    write("fastmesh/util.py", "if True:\n    import asyncio.subprocess\n")
    write("fastmesh/agent/main.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import yaml\n")
    write("fastmesh/agent/certs.py", "def f():\n    import cryptography\n")
    write("fastmesh/cli.py", "def control():\n    from fastmesh_control import server\n")
    write("fastmesh/commands/control.py", "def run():\n    import fastmesh_control.server\n")
    write("fastmesh_control/__init__.py", "from fastmesh.agent import admin\n")
    files = modules(tmp_path)
    at_load, anywhere = import_table(files, inner=False), import_table(files, inner=True)
    assert chain_to(at_load, "fastmesh.supervisor.arbiter", {"asyncio"}) == [
        "fastmesh.supervisor.arbiter", "fastmesh.util", "asyncio.subprocess",
    ]  # fmt: skip
    assert "fastmesh.supervisor.listeners" in at_load["fastmesh.supervisor.arbiter"]
    assert chain_to(at_load, "fastmesh.agent.main", HEAVY) == []
    assert chain_to(at_load, "fastmesh.agent.certs", HEAVY) == []
    assert chain_to(anywhere, "fastmesh.agent.certs", HEAVY)
    assert control_faults(at_load, anywhere) == [
        "fastmesh_control imports fastmesh.agent",
        "fastmesh_control imports fastmesh.agent.admin",
    ]
    write("fastmesh/cli.py", "from fastmesh_control import server\n")
    write("fastmesh/demo.py", "def f():\n    import fastmesh_control\n")
    files = modules(tmp_path)
    faults = control_faults(import_table(files, inner=False), import_table(files, inner=True))
    assert "fastmesh.cli imports fastmesh_control.server at module level" in faults
    assert "fastmesh.demo imports fastmesh_control" in faults
