"""House rules that a linter does not know: docstrings, where printing is allowed, one broad except."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = [path for package in ("recall", "service", "index", "model") for path in sorted((ROOT / package).rglob("*.py"))]
PRINTERS = ("recall/",)


@pytest.fixture(scope="module")
def trees():
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in PATHS}


def found(trees, is_meant):
    """file:line of every node that is meant."""
    return [f"{name}:{node.lineno}" for name, tree in trees.items() for node in ast.walk(tree) if is_meant(node)]


def prints(node):
    """print(..), and console.print(..) too."""
    return isinstance(node, ast.Call) and "print" in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))


def is_broad(node):
    if not isinstance(node, ast.ExceptHandler):
        return False
    names = {getattr(one, "id", "") for one in ast.walk(node.type)} if node.type else {"Exception"}
    return bool(names & {"Exception", "BaseException"})


def test_every_module_says_what_it_is(trees):
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_only_commands_print(trees):
    assert [place for place in found(trees, prints) if not place.startswith(PRINTERS)] == []


def test_at_most_one_broad_except(trees):
    assert len(found(trees, is_broad)) <= 1


@pytest.mark.parametrize(
    ("code", "meant"),
    [("print(1)", prints), ("out.print(1)", prints)]
    + [(f"try: pass\nexcept{what}: pass", is_broad) for what in ("", " Exception", " (OSError, BaseException) as e")],
)
def test_a_breach_would_be_found(code, meant):
    assert len(found({"some.py": ast.parse(code)}, meant)) == 1


def test_a_narrow_except_is_no_breach():
    assert found({"some.py": ast.parse("try: pass\nexcept (OSError, ValueError): pass")}, is_broad) == []
