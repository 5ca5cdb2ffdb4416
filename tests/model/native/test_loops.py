"""The loops in C are there, or it is told why not; they refuse arrays of another kind."""

import shutil
import sys
import sysconfig
import types
from pathlib import Path

import numpy as np
import pytest

from model import native
from model.native.loops import LOADED, VERSION, load

MODULE = "model.native._loops"
NONE = np.empty((0, 3), dtype=np.float32)


def test_numpy_runs_where_it_is_asked_for():
    assert load("numpy").loops is None
    assert "RECALL_LOOPS" in load("numpy").reason


def test_a_switch_that_says_neither_is_refused():
    with pytest.raises(ValueError, match="RECALL_LOOPS is 'torch'; it takes numpy, or nothing"):
        load("torch")


def test_numpy_runs_where_the_c_code_was_not_built(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    assert load("").loops is None
    assert "not built" in load("").reason


@pytest.mark.skipif(
    not (shutil.which("gcc") and Path(sysconfig.get_path("include"), "Python.h").exists()), reason="needs a C compiler"
)
def test_both_libraries_are_built_where_there_is_a_compiler():
    # an installation without them is silent, and all tests of C code are skipped then
    folder = Path(native.__file__).parents[1]
    assert [*folder.glob("native/_loops*.so")]
    assert [*folder.glob("fused/_decoder*.so")]


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_numpy_runs_where_the_c_code_is_of_another_version(monkeypatch, version):
    monkeypatch.setitem(sys.modules, MODULE, types.SimpleNamespace(VERSION=version))
    assert load("").loops is None
    assert "install the package again" in load("").reason


def test_the_c_code_runs_where_it_was_built(monkeypatch):
    built = types.SimpleNamespace(VERSION=VERSION, WIDTH="AVX2")
    monkeypatch.setitem(sys.modules, MODULE, built)
    assert load("").loops is built
    assert load("").reason == "C, AVX2"


@pytest.mark.skipif(LOADED.loops is None, reason=LOADED.reason)
@pytest.mark.parametrize(
    ("scores", "vectors", "before", "error"),
    [
        (np.zeros(2), np.zeros((2, 3), np.float32), NONE, TypeError),
        (np.zeros(2, np.float32), np.zeros((2, 3)), NONE, TypeError),
        (np.zeros(2, np.float32), np.zeros((3, 3), np.float32), NONE, ValueError),
        (np.zeros(2, np.float32), np.zeros((2, 4), np.float32), NONE, ValueError),
        (np.zeros(2, np.float32), np.zeros((2, 6), np.float32)[:, ::2], NONE, ValueError),
        (np.zeros((2, 1), np.float32), np.zeros((2, 3), np.float32), NONE, TypeError),
        (np.zeros(0, np.float32), np.zeros((0, 3), np.float32), NONE, ValueError),
        ([0.0, 0.0], np.zeros((2, 3), np.float32), NONE, TypeError),
    ],
)
def test_arrays_of_another_kind_are_refused(scores, vectors, before, error):
    with pytest.raises(error):
        LOADED.loops.most_novel(scores, vectors, before, 0.5, 1, None)


@pytest.mark.skipif(LOADED.loops is None, reason=LOADED.reason)
def test_another_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="most_novel takes"):
        LOADED.loops.most_novel()
