"""Every study can be started: its modules import what there is, and it knows the options that pages print for it.

That its calls are those of today's code is mypy's to say: `benchmarks` is among its packages.
"""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
FILES = [file for file in sorted(FOLDER.glob("*.py")) if file.stem != "__init__"]
# those in a folder too; the other peers need what lies in an environment of their own
PARSING = [file for file in sorted(FOLDER.rglob("*.py")) if "ArgumentParser(" in file.read_text(encoding="utf-8")]
PAGES = [ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *FILES]
COMMAND = re.compile(r"-m (benchmarks[\w.]+)((?: +[^\s`#]+)*)")


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def printed_commands(text):
    """Each (module, rest of the line) of the commands in a text, of which a line may go on in the next."""
    joined = re.sub(r"\\\n\s*", "", text)
    # a sentence may end behind a command
    return [(module.rstrip("."), rest) for module, rest in COMMAND.findall(joined)]


def printed_options(text):
    """Each (module, option) of the commands in a text."""
    return {(module, option) for module, rest in printed_commands(text) for option in re.findall(r"--[\w-]+", rest)}


@pytest.fixture(scope="module")
def printed():
    return set().union(*(printed_options(page.read_text(encoding="utf-8")) for page in PAGES))


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_study_imports(name):
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", [module_of(file) for file in PARSING])
def test_a_study_says_how_it_is_called(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("file", PARSING, ids=module_of)
def test_a_study_knows_the_options_that_pages_print(file, printed):
    known = re.findall(r'add_argument\(\s*"(--[\w-]+)"', file.read_text(encoding="utf-8"))
    assert {option for module, option in printed if module == module_of(file)} <= {*known}


def test_every_printed_study_is_there(printed):
    named = {module for page in PAGES for module, _ in printed_commands(page.read_text(encoding="utf-8"))}
    assert named <= {module_of(file) for file in FOLDER.rglob("*.py")}
    assert {module for module, _ in printed} <= {module_of(file) for file in PARSING}


def test_options_of_a_printed_command_are_found():
    text = "$ python -m benchmarks.peers.compare --p99-ms 30 \\\n\t\t--only x  # not --this\n`-m benchmarks.a` --no"
    assert printed_options(text) == {("benchmarks.peers.compare", "--p99-ms"), ("benchmarks.peers.compare", "--only")}
    assert printed_commands("It is `-m benchmarks.b` or\n$ python -m benchmarks.c.") == [
        ("benchmarks.b", ""),
        ("benchmarks.c", ""),
    ]
