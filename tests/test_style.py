"""Gate: what can be checked of the house rules without running the program, and ruff and mypy themselves."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cysource import CORE, ROOT

MAX_LINES = 600
SOURCES = ("src", "control", "tests", "bench")
SUFFIXES = (".py", ".pyx", ".pxd")
# The first directory of an absolute path that exists on one machine only.
MACHINE_ROOTS = ("home", "Users", "root", "work", "workspace", "builds")
_MACHINE_PATH = re.compile(rf"(?<![\w.)}}$*/-])/(?:{'|'.join(MACHINE_ROOTS)})/[\w.-]+")
# Left standing in a finished file, it says that the file is not finished.
_UNFINISHED = re.compile("|".join(f"{a}{b}" for a, b in (("TO", "DO"), ("FIX", "ME"), ("XX", "X:"))))

GENERATORS = {CORE / f"proto/_gen_{name}.py": CORE / f"proto/gen_{name}.pxd" for name in ("tables", "hpack")}


def tracked(root: Path) -> list[Path]:
    """The files under version control; without git, every file that is not a build product."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(
        ["git", "-c", f"safe.directory={root}", *listing], cwd=root, capture_output=True, check=False
    )
    if done.returncode == 0 and done.stdout:
        paths = [root / name for name in done.stdout.decode().split("\0") if name]
        return [path for path in paths if path.is_file()]
    skipped = {".venv", "build", "dist", "__pycache__", ".git"}
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not skipped.intersection(path.relative_to(root).parts)
        and not any(part.endswith((".egg-info", "_cache", ".so")) for part in path.relative_to(root).parts)
    ]


def text_of(path: Path) -> str:
    """The text of a file, empty for a binary one."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode(errors="replace")


def long_files(root: Path) -> list[str]:
    """Source files above the cap: split them by the noun they own."""
    found = []
    for path in tracked(root):
        parts = path.relative_to(root).parts
        if parts[0] in SOURCES and path.suffix in SUFFIXES:
            count = len(text_of(path).splitlines())
            if count > MAX_LINES:
                found.append(f"{path.relative_to(root)}: {count} lines")
    return found


def lines_matching(root: Path, pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(root)}:{number}: {line.strip()[:120]}"
        for path in tracked(root)
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]


def machine_paths(root: Path) -> list[str]:
    """Lines that name a path of one machine, this checkout's own among them."""
    here = re.compile(re.escape(str(root)) + r"\b")
    return lines_matching(root, _MACHINE_PATH) + (lines_matching(root, here) if len(root.parts) > 2 else [])


def undocumented(root: Path) -> list[str]:
    """Source files that do not open by saying what they own."""
    found = []
    for path in tracked(root):
        parts = path.relative_to(root).parts
        if parts[0] not in SOURCES or path.suffix not in SUFFIXES:
            continue
        text = text_of(path).lstrip()
        if text and not text.startswith(('"""', 'r"""', "#")):
            found.append(str(path.relative_to(root)))
    return found


def table_fault(generator: Path, generated: Path) -> str:
    """Why the generated tables are not what their generator writes; empty when they are."""
    spec = importlib.util.spec_from_file_location("gen_tables_under_test", generator)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted: str = module.render()
    if not generated.exists():
        return f"{generated.name} is missing"
    return "" if generated.read_text() == wanted else f"{generated.name} is not what {generator.name} writes"


def test_no_source_file_is_too_long():
    assert not long_files(ROOT)


def test_no_machine_path_is_tracked():
    assert not machine_paths(ROOT)


def test_nothing_is_left_unfinished():
    assert not lines_matching(ROOT, _UNFINISHED)


def test_every_source_file_says_what_it_owns():
    assert not undocumented(ROOT)


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.name)
def test_generated_tables_are_current(generator, monkeypatch):
    monkeypatch.syspath_prepend(str(generator.parent))  # one generator uses another's helpers
    assert table_fault(generator, GENERATORS[generator]) == ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("arguments", [["ruff", "check", "."], ["mypy"]], ids=lambda arguments: arguments[0])
def test_lint(arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def sample(tmp_path):
    """A small tree that is no git repository; `sample(name, text)` adds a file."""

    def add(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path

    return add


def test_the_length_gate_fails_on_a_long_file(sample):
    root = sample("src/pkg/short.pyx", '"""Short."""\n' + "x = 1\n" * (MAX_LINES - 1))
    assert long_files(root) == []
    sample("docs/long.py", "x = 1\n" * (MAX_LINES + 1))
    sample(".venv/src/long.py", "x = 1\n" * (MAX_LINES + 1))
    assert long_files(root) == []
    sample("src/pkg/long.pxd", "x = 1\n" * (MAX_LINES + 1))
    assert long_files(root) == [f"src/pkg/long.pxd: {MAX_LINES + 1} lines"]


def test_the_path_gate_fails_on_a_machine_path(sample):
    harmless = "GET /homepage/x, https://host/users, ${PREFIX}/work/tree, src/work/tree, /var/lib/fastmesh\n"
    root = sample("README.md", harmless)
    assert machine_paths(root) == []
    sample("a.md", f"see {'/'}home/someone/notes\n")
    sample("b.md", f"cd {root}\n")
    assert [fault.split(":")[0] for fault in machine_paths(root)] == ["a.md", "b.md"]


def test_the_unfinished_and_docstring_gates_fail_on_bad_samples(sample):
    root = sample("src/a.py", '"""Says it."""\nx = 1\n')
    assert lines_matching(root, _UNFINISHED) == undocumented(root) == []
    sample("src/b.py", f"x = 1  # {'TO'}DO: think\n")
    assert undocumented(root) == ["src/b.py"]
    assert len(lines_matching(root, _UNFINISHED)) == 1


def test_the_table_gate_fails_on_an_edited_table(sample):
    root = sample("gen.py", "def render() -> str:\n    return '# generated\\n'\n")
    generator, generated = root / "gen.py", root / "tables.pxd"
    assert table_fault(generator, generated) == "tables.pxd is missing"
    generated.write_text("# generated\n")
    assert table_fault(generator, generated) == ""
    generated.write_text("# generated\nedited\n")
    assert table_fault(generator, generated) == "tables.pxd is not what gen.py writes"
