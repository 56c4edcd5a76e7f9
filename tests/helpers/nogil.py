"""What the generated C of a Cython module does in nogil code: the score that `cython -a` gives, line by line.

Computed from the C itself (by its #line directives) and not from the annotated HTML, so that the inline
functions of the .pxd files count too, in every module that uses them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import Cython

from helpers.cysource import ROOT, Line, block, cimports, functions, is_border, logical_lines

CACHE = ROOT / "build/nogil"
SHOWN = 2000  # characters of the messages of a module that does not compile

# A call into CPython or into a helper of Cython that works on Python objects.
_API = re.compile(r"\b(?:__Pyx_[A-Z]\w*|__pyx_convert_\w+|Py_?[A-Z]\w*)(?=\()")
# What Cython writes everywhere and the C compiler removes in a build without its reference checker.
_FREE = re.compile(r"__Pyx_(?:X?(?:GOT|GIVE|INC|DEC)REF$|RefNanny|Trace)")
_LINE = re.compile(r'#line (\d+) "(.*)"')

# Words that have no place in a file that must run without the GIL.
_WORDS = re.compile(r"\b(raise|with gil|print|object|try|except|yield|lambda|import|def|class)\b")
_POINTER = re.compile(r"\(\*\s*\w*\)\s*\(")


def directives() -> dict[str, object]:
    """The directives of setup.py, which cannot be imported without building."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DIRECTIVES":
            found: dict[str, object] = ast.literal_eval(node.value)
            return found
    raise LookupError("setup.py has no DIRECTIVES")


def declaration_file(module: str, root: Path) -> Path | None:
    """The .pxd of a module below the source root."""
    path = root.joinpath(*module.split(".")).with_suffix(".pxd")
    return path if path.exists() else None


def sources_of(path: Path, root: Path) -> list[Path]:
    """A .pyx with every .pxd that its C depends on."""
    found, queue = {path}, [path, path.with_suffix(".pxd")]
    while queue:
        current = queue.pop()
        if not current.exists():
            continue
        found.add(current)
        for _, module in cimports(logical_lines(current.read_text())):
            declared = declaration_file(module, root)
            if declared and declared not in found:
                queue.append(declared)
    return sorted(found)


def nogil_lines(source: str, *, border: bool) -> set[int]:
    """The physical lines of a file that must not touch a Python object; function heads are not among them."""
    lines = logical_lines(source)
    inside: set[int] = set()
    for function in functions(lines):
        if not border or "nogil" in function.tail:
            inside.update(function.body)
    for index, line in enumerate(lines):
        if re.match(r"with nogil\b", line.text):
            inside.update(n for at in block(lines, index) for n in range(at.first, at.last + 1))
    # entering and leaving is what `with nogil` and `with gil` do; the word gate says where they may stand
    return inside - {line.first for line in lines if re.match(r"with nogil\b", line.text)}


def calls_by_line(generated: str) -> dict[tuple[str, int], list[str]]:
    """(source file, line) -> the Python API that its C calls."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    at: tuple[str, int] | None = None
    for text in generated.splitlines():
        if line := _LINE.match(text):
            at = (line[2], int(line[1]))
        elif "/* function exit code */" in text:
            at = None
        elif at is not None:
            found[at] += [call for call in _API.findall(text) if not _FREE.match(call)]
    return {place: calls for place, calls in found.items() if calls}


def cythonize(path: Path, root: Path) -> tuple[str, str]:
    """(generated C, what Cython wrote to stderr) of one module."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "module.c"
        options = [f"-X{name}={value}" for name, value in directives().items()]
        command = [
            sys.executable, "-m", "cython", "-3", "--line-directives", "-Wextra", *options, "-I", str(root),
            "--module-name", ".".join(path.relative_to(root).with_suffix("").parts),
            "-o", str(target), str(path),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            return "", done.stdout + done.stderr
        return target.read_text(), done.stderr


def purity_faults(path: Path, root: Path) -> list[str]:
    """What is wrong with a module's nogil code according to Cython; cached by what it reads."""
    sources = sources_of(path, root)
    key = hashlib.sha256(Cython.__version__.encode() + Path(__file__).read_bytes())
    key.update((ROOT / "setup.py").read_bytes())
    for source in sources:
        key.update(str(source).encode() + source.read_bytes())
    remembered = CACHE / f"{key.hexdigest()}.json"
    if remembered.exists():
        found: list[str] = json.loads(remembered.read_text())
        return found
    faults = _faults(path, root, sources)
    CACHE.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps(faults))
    return faults


def _faults(path: Path, root: Path, sources: list[Path]) -> list[str]:
    generated, messages = cythonize(path, root)
    if not generated:
        return [f"{path.name} does not compile:\n{messages[:SHOWN]}"]
    faults = [text for text in messages.splitlines() if "performance hint" in text]
    by_name = {str(source): source for source in sources}
    by_name |= {str(source.relative_to(root)): source for source in sources}
    guarded = {s: nogil_lines(s.read_text(), border=is_border(s)) for s in sources}
    for (name, number), calls in sorted(calls_by_line(generated).items()):
        source = by_name.get(name)
        if source and number in guarded[source]:
            text = source.read_text().splitlines()[number - 1].strip()
            called = ", ".join(sorted(set(calls)))
            faults.append(f"{source.relative_to(root)}:{number}: {text}\n    calls {called}")
    return faults


def word_faults(source: str) -> list[str]:
    """Statements that have no place in `_core` outside its border files, by their words alone."""
    lines = logical_lines(source)
    faults = [
        f"{line.first}: {found[1]}: {line.text}" for line in lines if (found := _WORDS.search(line.text))
    ]
    faults += [
        f"{function.head.first}: {function.name} does not end with `noexcept nogil`"
        for function in functions(lines)
        if function.tail != "noexcept nogil"
    ]
    faults += [f"{n}: pointer without `noexcept nogil`: {t}" for n, t in _bare_pointers(lines)]
    return faults


def _bare_pointers(lines: list[Line]) -> list[tuple[int, str]]:
    """Typed callbacks must be noexcept: only then is assigning a raising function a compile error."""
    found = []
    extern: int | None = None
    for line in lines:
        if extern is not None and line.indent > extern:
            continue
        extern = line.indent if re.match(r"cdef extern\b", line.text) else None
        if _POINTER.search(line.text) and "noexcept nogil" not in line.text:
            found.append((line.first, line.text))
    return found
