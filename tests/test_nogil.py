"""Gate: `_core` runs without the GIL from accept to close, in its words and in the C that comes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cysource import CORE, ROOT, core_files, is_border
from helpers.nogil import purity_faults, word_faults

SOURCE_ROOT = ROOT / "src"


def name_of(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", core_files(".pyx"), ids=name_of)
def test_generated_code_touches_no_python_object(path):
    faults = purity_faults(path, SOURCE_ROOT)
    assert not faults, "\n".join(faults)


def test_no_words_of_python_outside_the_border_files():
    faults = [
        f"{name_of(path)}:{fault}"
        for path in core_files(".pyx", ".pxd")
        if not is_border(path)
        for fault in word_faults(path.read_text())
    ]
    assert not faults, "\n".join(faults)


GOOD = '''
"""A module that raises nothing: object, print, try."""
from libc.stdlib cimport abs

cdef extern from *:
    """
    static int plain(int a) { return a; }
    """
    int plain(int a) nogil

ctypedef int (*step_fn)(int) noexcept nogil

cdef struct Box:
    int a
    int (*step)(
        int,
    ) noexcept nogil

cdef int total(
    Box *box,
    int n,
) noexcept nogil:
    cdef step_fn callback = box.step
    cdef int i, sum = plain(n)  # raise, with gil
    for i in range(n):
        sum += abs(callback(i)) // n
    return sum
'''

# Each of these bodies compiles, and each touches Python.
IMPURE = {
    "checks for an exception": "    return may_raise(a)",
    "takes the GIL": "    with gil:\n        return len([a])",
    "makes an object": "    with gil:\n        x = <object>a\n    return 0",
    "inline of a .pxd": "    return lib_checked(a)",
}
MODULE = """
from lib cimport lib_checked

cdef int may_raise(int a) except? -1 nogil:
    return a

cdef int run(int a) noexcept nogil:
{body}

def shim():
    return run(1)
"""
LIB = """
cdef int lib_raises(int a) except? -1 nogil
cdef inline int lib_checked(int a) noexcept nogil:
    return lib_raises(a)
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.nogil.CACHE", tmp_path / "cache")
    (tmp_path / "lib.pxd").write_text(LIB)
    return tmp_path


def test_the_gate_passes_good_code(tree):
    path = tree / "good.pyx"
    path.write_text(GOOD)
    assert purity_faults(path, tree) == []
    assert word_faults(GOOD) == []


@pytest.mark.parametrize("fault", IMPURE)
def test_the_gate_fails_on_code_that_touches_python(tree, fault):
    path = tree / "impure.pyx"
    path.write_text(MODULE.format(body=IMPURE[fault]))
    faults = purity_faults(path, tree)
    assert faults
    assert ("lib.pxd:4" if "pxd" in fault else "impure.pyx:") in "".join(faults)
    assert purity_faults(path, tree) == faults  # from the cache


def test_a_changed_declaration_is_looked_at_again(tree):
    path = tree / "user.pyx"
    path.write_text("cimport twice\ncdef public int use(int a) noexcept nogil:\n    return twice.twice(a)\n")
    raising = "cdef int raises(int a) except? -1 nogil\n"
    declared = f"{raising}cdef inline int twice(int a) noexcept nogil:\n    return 2 * a\n"
    (tree / "twice.pxd").write_text(declared)
    assert purity_faults(path, tree) == []
    (tree / "twice.pxd").write_text(declared.replace("2 * a", "raises(a)"))
    assert purity_faults(path, tree)


def test_a_performance_hint_is_a_fault(tree):
    path = tree / "hinted.pyx"
    path.write_text("cdef void step() nogil:\n    pass\ncdef public void run() noexcept nogil:\n    step()\n")
    assert any("performance hint" in fault for fault in purity_faults(path, tree))


def test_a_module_that_does_not_compile_is_a_fault(tree):
    path = tree / "broken.pyx"
    path.write_text("cdef int run() noexcept nogil:\n    return [1]\n")
    assert "does not compile" in purity_faults(path, tree)[0]


@pytest.mark.parametrize(
    "statement",
    [
        "cdef int f(int a) nogil",
        "cdef int f(int a) noexcept",
        "cdef int f(int a) except -1 nogil",
        "cdef inline int f(\n    int a,\n):\n    return a",
        "cpdef int f(int a)",
        "cdef struct Ops:\n    int (*go)(void *owner) nogil",
        "ctypedef int (*go_fn)(int)",
        "def f():\n    return 1",
        "cdef class C:\n    pass",
        "cdef object name",
        "cdef int f() noexcept nogil:\n    raise ValueError",
        "cdef int f() noexcept nogil:\n    with gil:\n        pass",
        "cdef int f() noexcept nogil:\n    print(1)",
        "import os",
    ],
)
def test_the_word_gate_fails_on_bad_samples(statement):
    assert word_faults(f"{statement}\n")
