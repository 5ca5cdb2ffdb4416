"""The compiled library: where it is not there, or not the one that is meant, torch computes, and the reason is told."""

import ctypes

import pytest

from model.encoder import UserEncoder
from model.fused import library
from model.records import History


@pytest.fixture(autouse=True)
def opened_anew():
    library.open_library.cache_clear()
    yield
    library.open_library.cache_clear()


def test_a_package_without_it_computes_by_torch(make_decoder, make_checkpoint, monkeypatch):
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".absent"])
    encoder = UserEncoder(make_checkpoint(make_decoder()))
    assert encoder.not_fused == "not_built"
    assert encoder.encode([History((1, 2))]).vectors.shape == (1, 1, 32)


@pytest.mark.parametrize("text", [b"", b"no library"])
def test_a_file_that_is_no_library_is_not_loaded(tmp_path, monkeypatch, text):
    (tmp_path / "_decoder.so").write_bytes(text)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".so"])
    with pytest.raises(library.UnavailableError, match="not_loaded"):
        library.open_library()


def test_one_with_other_records_is_not_used(monkeypatch):
    monkeypatch.setattr(library, "sizeof", lambda record: ctypes.sizeof(record) + 8)
    with pytest.raises(library.UnavailableError, match="version"):
        library.open_library()


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "torch")
    with pytest.raises(library.UnavailableError, match="switched_off"):
        library.open_library()


def test_a_switch_that_says_neither_is_refused(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "numpy")
    with pytest.raises(ValueError, match="RECALL_DECODER is 'numpy'; it takes torch, or nothing"):
        library.open_library()
