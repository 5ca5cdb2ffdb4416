"""The words that call this command: on the PATH, in the environment's folder, or as a module."""

import pytest

from recall.terminal import command_here


@pytest.fixture
def python(tmp_path, monkeypatch):
    """The interpreter of an environment in the current folder that is not on the PATH."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return folder / "python"


@pytest.fixture
def script(python):
    path = python.with_name("recall")
    path.write_text("#!/bin/sh")
    path.chmod(0o755)
    return path


def test_a_script_that_is_not_on_the_path_is_named_from_here(python, script):
    assert command_here(python) == ".venv/bin/recall"


def test_from_elsewhere_the_whole_path_is_named(python, script, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert command_here(python) == str(script)


def test_on_the_path_its_name_is_enough(python, script, monkeypatch):
    monkeypatch.setenv("PATH", str(script.parent))
    assert command_here(python) == "recall"


def test_another_script_of_that_name_is_not_taken_for_it(python, script, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other") / "recall"
    other.write_text("#!/bin/sh")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert command_here(python) == ".venv/bin/recall"


def test_without_a_script_the_module_is_run(python):
    assert command_here(python) == ".venv/bin/python -m recall"
