"""House rules that a linter does not know: rooms, names, docstrings, objects finished when built, sizes."""

import re
import statistics

import pytest

from docs import house, rooms
from docs.house import FLOORS, ROOT, Source

PRINTERS = ("recall/",)
MAX_BROAD = 1
EVERYWHERE = (*FLOORS, "tests", "benchmarks", "docs")

# Every arrow between two rooms: room -> the rooms it imports. A new arrow is a decision: draw it here first.
ALLOWED = {
    "recall": "",
    "recall.__main__": (
        "model recall.benchmarking recall.comparing recall.data recall.demo recall.doctor recall.experiments "
        "recall.exporting recall.keys recall.options recall.replay recall.reproducing recall.serving recall.terminal "
        "recall.training "
        "recall.tuning service.errors service.telemetry"
    ),
    "recall.bench": (
        "index.auto index.bundle index.evaluate index.exact index.factory index.faiss_index index.next_item "
        "model.catalogue model.checkpoint model.encoder model.networks model.records recall.calling "
        "recall.reproduction service.engine service.subprocesses"
    ),
    "recall.benchmarking": (
        "index.auto model.encoder model.native recall.bench recall.calling recall.options recall.reproduction "
        "recall.terminal"
    ),
    "recall.calling": "",
    "recall.comparing": "model.checkpoint model.data model.evaluation model.records recall.terminal",
    "recall.data": "model.data model.folders model.logs model.positive recall.options recall.terminal",
    "recall.demo": (
        "index.bundle model.data model.recipes recall.serving recall.terminal recall.training service.engine "
        "service.errors service.settings"
    ),
    "recall.doctor": "model.fused model.native recall.terminal service.engine service.errors service.stores",
    "recall.experiments": (
        "model.folders recall.calling recall.options recall.terminal service.consumer service.errors "
        "service.experiments service.experiments.report service.experiments.verdict service.settings service.telemetry"
    ),
    "recall.exporting": "model.data recall.data recall.options recall.terminal service.engine service.export",
    "recall.keys": "recall.options recall.terminal service.access",
    "recall.options": "model.ids",
    "recall.replay": (
        "index.bundle model.data model.recipes recall.bench recall.experiments recall.options "
        "recall.replay.audiences recall.reproduction recall.terminal recall.training service.consumer "
        "service.experiments service.experiments.verdict service.stores"
    ),
    "recall.replay.audiences": "model.data model.logs",
    "recall.reproducing": "recall.options recall.reproduction recall.terminal service.engine",
    "recall.reproduction": (
        "index.bundle model model.catalogue model.checkpoint model.data model.evaluation model.logs model.networks "
        "model.recipes model.records model.training"
    ),
    "recall.serving": (
        "recall.calling recall.options recall.terminal service.access service.engine service.engine_process "
        "service.errors service.http service.processes service.settings service.telemetry"
    ),
    "recall.terminal": "",
    "recall.training": (
        "index.auto index.bundle model.checkpoint model.data model.evaluation model.folders model.metadata "
        "model.recipes model.recorded model.records model.training recall.comparing recall.options "
        "recall.terminal service.engine"
    ),
    "recall.tuning": "model.data model.recipes model.training recall.options recall.terminal service.engine",
    "service": "",
    "service.access": "model.folders service.errors service.settings",
    "service.admission": "",
    "service.bootstrap": (
        "model.folders model.positive service.canary service.catalogue service.engine service.errors service.events "
        "service.experiments service.items service.pipeline service.queries service.remote service.reports "
        "service.settings service.stores service.steps service.telemetry"
    ),
    "service.canary": (
        "service.engine service.errors service.experiments service.fallback service.pipeline service.queries"
    ),
    "service.catalogue": (
        "index.base model.attributes model.catalogue model.ids model.outcomes model.rules service.errors service.stores"
    ),
    "service.clock": "",
    "service.consumer": (
        "model.folders model.logs service.errors service.events service.stores service.subprocesses service.telemetry"
    ),
    "service.embedded": "service.consumer service.settings service.stores",
    "service.engine": (
        "index.base index.bundle index.exact index.folded index.next_item index.planned index.watched "
        "model.catalogue model.checkpoint model.columns model.data model.device model.encoder "
        "model.evaluation model.folders model.kernels model.merging model.metadata model.native model.outcomes "
        "model.positive model.records model.rules service.catalogue service.errors service.lists service.memory "
        "service.scheduling "
        "service.stores"
    ),
    "service.engine_process": (
        "index.bundle service.bootstrap service.catalogue service.embedded service.engine service.errors "
        "service.golden service.items service.reload "
        "service.settings service.stores service.telemetry"
    ),
    "service.errors": "",
    "service.export": (
        "model model.catalogue model.data model.folders model.logs model.merging service.engine service.errors "
        "service.fallback service.lists"
    ),
    "service.fallback": "model.merging model.rules service.engine service.errors service.lists",
    "service.events": "service.errors service.stores",
    "service.experiments": "model.catalogue model.folders model.positive service.errors service.events service.stores",
    "service.experiments.report": (
        "model.logs service.consumer service.errors service.experiments service.experiments.verdict service.reports"
    ),
    "service.experiments.verdict": "service.errors",
    "service.http": (
        "model model.attributes model.ids model.rules service.access service.admission service.bootstrap "
        "service.catalogue service.engine service.errors service.experiments service.lists service.memory "
        "service.queries service.reports service.settings service.steps service.stores service.telemetry"
    ),
    "service.items": (
        "model.attributes model.catalogue model.ids service.catalogue service.engine service.errors "
        "service.settings service.stores"
    ),
    "service.lists": (
        "index.base index.best model.catalogue model.merging model.native model.records model.rules service.catalogue"
    ),
    "service.memory": "",
    "service.pipeline": (
        "model.catalogue model.records model.rules service.catalogue service.clock service.engine service.errors "
        "service.experiments service.fallback service.queries service.scheduling service.steps service.stores"
    ),
    "service.processes": (
        "service.bootstrap service.embedded service.engine service.engine_process service.errors service.http "
        "service.memory service.remote service.settings service.stores service.subprocesses service.telemetry"
    ),
    "service.queries": (
        "model.catalogue model.merging model.rules service.engine service.errors service.experiments service.lists"
    ),
    "service.golden": "model.catalogue model.recorded service.engine service.stores",
    "service.reload": "model.catalogue service.engine service.errors service.memory",
    "service.remote": (
        "model.columns model.merging model.records model.rules service.catalogue service.engine service.errors "
        "service.lists service.stores"
    ),
    "service.reports": "service.errors service.subprocesses",
    "service.scheduling": "",
    "service.settings": "model.positive service.errors",
    "service.steps": (
        "model.catalogue model.ids service.clock service.engine service.errors service.experiments service.fallback "
        "service.queries service.stores"
    ),
    "service.stores": "model.catalogue model.ids model.records service.errors service.subprocesses",
    "service.subprocesses": "",
    "service.telemetry": "index.watched model service.engine service.errors service.queries service.settings",
    "index": "",
    "index.auto": "index.base index.evaluate index.exact index.factory index.faiss_index",
    "index.base": "",
    "index.best": "index.base index.checks model.native",
    "index.bundle": (
        "index.auto index.base index.checks index.evaluate index.exact index.factory index.faiss_index "
        "index.next_item model model.catalogue model.checkpoint model.encoder model.folders model.metadata "
        "model.records"
    ),
    "index.checks": "index.base",
    "index.evaluate": "index.base",
    "index.exact": ("index.base index.best index.checks index.exact_device model.kernels model.native model.products"),
    "index.exact_device": "index.base model.kernels",
    "index.factory": "index.base index.exact index.faiss_index",
    "index.faiss_index": "index.base index.checks",
    "index.folded": "index.base index.exact index.faiss_index",
    "index.lists": "index.base index.checks index.exact index.faiss_index",
    "index.next_item": "index.base index.faiss_index",
    "index.planned": "index.base index.checks index.exact index.faiss_index index.lists",
    "index.watched": "index.base index.evaluate",
    "model": "",
    "model.attributes": "",
    "model.batch": "",
    "model.catalogue": "model.attributes model.ids",
    "model.checkpoint": (
        "model.catalogue model.folders model.metadata model.networks model.outcomes model.positive model.records"
    ),
    "model.columns": "model.records",
    "model.compiled": "model.batch model.generation model.networks model.products model.records",
    "model.data": "model.attributes model.catalogue model.folders model.ids model.logs model.positive",
    "model.device": "model.batch model.columns model.compiled model.kernels model.merging model.networks model.records",
    "model.encoder": (
        "model.batch model.checkpoint model.compiled model.fused model.generation model.networks model.records"
    ),
    "model.evaluation": "model.batch model.catalogue model.data model.merging model.networks model.records",
    "model.folders": "",
    "model.fused": "model.batch model.compiled model.networks model.records",
    "model.generation": "model.batch model.kernels model.records",
    "model.ids": "",
    "model.kernels": "",
    "model.logs": "model.ids model.positive",
    "model.merging": "model.catalogue model.native model.records",
    "model.metadata": "model.catalogue model.positive model.records",
    "model.networks": "model.batch model.catalogue model.generation model.products model.records",
    "model.native": "",
    "model.outcomes": "",
    "model.positive": "",
    "model.products": "model.kernels",
    "model.recipes": "model.evaluation model.records",
    "model.recorded": "model.catalogue model.folders model.ids",
    "model.records": "",
    "model.rules": "",
    "model.training": (
        "model model.batch model.catalogue model.checkpoint model.data model.evaluation model.folders model.generation "
        "model.networks model.outcomes model.recipes model.records"
    ),
}

# Attributes that are set on an object from outside, each with its reason. At most five.
SET_FROM_OUTSIDE = {
    "model/training/stage_run.py self.rng.bit_generator.state": "NumPy takes the state of a generator in no other way",
    "index/faiss_index.py ivf.cp.seed": "FAISS takes the seed of its clustering in no other way",
    "service/export/on_ray.py ray.data.DataContext.get_current().enable_progress_bars": "Ray Data is told in no other "
    "way once it is imported",
}


@pytest.fixture(scope="module")
def files():
    """The Python files of the four floors."""
    return house.sources(*FLOORS)


@pytest.fixture(scope="module")
def all_files():
    """The Python files of the repository."""
    return house.sources(*EVERYWHERE)


@pytest.fixture(scope="module")
def arrows(files):
    return rooms.arrows(files)


def parsed(text, name="service/some.py"):
    return Source.parse(name, text)


# --- rooms


def test_imports_go_down_only(arrows):
    assert rooms.upward(arrows) == []


def test_no_rooms_know_each_other(arrows):
    assert rooms.cycle(arrows) == []


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_knows_what_the_table_says(arrows, room):
    assert arrows[room] == set(ALLOWED[room].split())


def test_the_table_has_every_room(arrows):
    assert set(ALLOWED) == set(arrows)


def test_no_room_is_crowded():
    assert [*house.crowded()] == []


def test_every_package_says_what_it_is(all_files):
    assert [
        f.name for f in all_files if f.name.endswith("__init__.py") and not rooms.sentences([f])[rooms.module_name(f)]
    ] == []


def some_rooms(**texts):
    """Arrows of files given as service_engine_a="import .."; each package has its __init__."""
    given = {name.replace("_", "/") + ".py": text for name, text in texts.items()}
    packages = {f"{name.rpartition('/')[0]}/__init__.py" for name in given}
    return rooms.arrows([parsed(text, name) for name, text in [*given.items(), *((name, "") for name in packages)]])


def test_an_arrow_up_is_seen():
    up = some_rooms(model_data_a="def f():\n    from service.engine.b import c", service_engine_b="")
    assert rooms.upward(up) == ["model.data -> service.engine"]


def test_a_cycle_between_rooms_is_seen():
    ring = some_rooms(service_engine_a="import service.stores.b", service_stores_b="from service.engine import a")
    assert set(rooms.cycle(ring)) == {"service.engine", "service.stores"}


def test_a_package_and_its_module_are_told_apart():
    known = some_rooms(service_engine_a="from service import stores\nfrom service.stores import b", service_stores_b="")
    assert known["service.engine"] == {"service.stores"}


def test_modules_of_one_room_may_know_each_other():
    assert rooms.cycle(some_rooms(model_data_a="import model.data.b", model_data_b="import model.data.a")) == []


def test_a_crowded_room_is_seen(tmp_path):
    for folder, count in (("model/data", 15), ("model/networks", 15), ("model/training", 14)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / folder / f"part_{number}.py").touch()
    assert [*house.crowded(tmp_path)] == ["model/data: 15 modules"]


# --- names and docstrings


def test_docstrings_are_sentences_or_names(all_files):
    assert [place for file in all_files for place in house.fragments(file)] == []


def test_former_names_are_gone(all_files):
    assert [place for file in all_files for place in house.named(file, house.FORMER)] == []


def test_no_variable_has_an_empty_name(all_files):
    assert [place for file in all_files for place in house.named(file, house.EMPTY_NAMES)] == []


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda path: path.name)
def test_pages_quote_no_former_name(page):
    assert house.quoted(page.read_text(encoding="utf-8"), house.FORMER) == []


NAMED_FILE = re.compile(
    r"(?<![\w/.<-])(?:recall|service|index|model|tests|docs|benchmarks|docker)/[\w/.-]+\.(?:py|md|ya?ml)"
)
PLACEHOLDERS = {"model/networks/NAME.py"}


def test_files_that_pages_and_code_name_exist():
    """In prose a moved file is not missed by anybody; a changelog tells of files that were."""
    texts = [*(ROOT.glob("*.md")), *ROOT.glob("docs/**/*.md"), *(ROOT / file.name for file in house.sources(*FLOORS))]
    named = {name for text in texts if text.name != "CHANGELOG.md" for name in NAMED_FILE.findall(text.read_text())}
    assert [name for name in sorted(named - PLACEHOLDERS) if not (ROOT / name).exists()] == []


def test_every_module_says_what_it_is(files):
    assert [name for name, sentence in rooms.sentences(files).items() if not sentence] == []


@pytest.mark.parametrize("word", house.FRAGMENTS)
def test_a_fragment_is_seen(word):
    text = f'def f():\n    """{word} it holds."""\nclass C:\n    """{word} else."""'
    assert len([*house.fragments(parsed(text))]) == 2


@pytest.mark.parametrize("text", ["Writes rows.", "Whatever comes is kept.", "Nothing is sent.", ""])
def test_a_sentence_is_no_fragment(text):
    assert [*house.fragments(parsed(f'"""{text}"""'))] == []


@pytest.mark.parametrize(
    "code",
    [
        "class Exam: pass",
        "def bar(): pass",
        "def f(stored): pass",
        "stored = 1",
        "_stored = 1",
        "self.stored",
        "f(stored=1)",
        "for stored in (): pass",
        "[stored for stored in ()]",
        "import a as stored",
        "from stored import a",
        "from a import stored",
        "try: pass\nexcept OSError as stored: pass",
        "match a:\n    case stored: pass",
        "if (stored := 1): pass",
    ],
)
def test_a_former_name_is_seen(code):
    assert house.named(parsed(code), house.FORMER) != []


def test_a_former_name_is_seen_in_a_path():
    assert house.named(parsed("", "service/wire.py"), house.FORMER) == ["service/wire.py:1 wire"]


def test_a_longer_name_is_no_former_name():
    assert house.named(parsed("is_stored = 'stored'  # stored"), house.FORMER) == []


def test_a_quoted_former_name_is_seen():
    page = "asked in prose, bar\n`Ask` -> `service/wire.py`\n```\nExam()\n```\n"
    assert house.quoted(page, house.FORMER) == ["Ask", "Exam", "wire"]


# --- objects are finished when they are built


def test_nothing_is_set_on_an_object_from_outside(files):
    listed = [place for file in files for place in house.set_from_outside(file) if place not in SET_FROM_OUTSIDE]
    assert listed == []


def test_few_attributes_are_set_from_outside_and_all_of_them_are_real(files):
    assert len(SET_FROM_OUTSIDE) <= 5
    assert set(SET_FROM_OUTSIDE) <= {place for file in files for place in house.set_from_outside(file)}


@pytest.mark.parametrize(
    "code",
    ["a.b = 1", "a.b += 1", "a.b: int = 1", "a.b, c = 1, 2", "self.a.b = 1", "f().b = 1", "for a.b in (): pass"],
)
def test_setting_from_outside_is_seen(code):
    assert len([*house.set_from_outside(parsed(code))]) == 1


@pytest.mark.parametrize("code", ["self.b = 1", "cls.b += 1", "self.b[0] = 1", "a.b[0] = 1", "b = a.c"])
def test_an_object_may_set_its_own(code):
    assert [*house.set_from_outside(parsed(code))] == []


# --- sizes and habits


def test_only_commands_print(files):
    assert [place for place in house.places(files, house.prints) if not place.startswith(PRINTERS)] == []


def test_at_most_one_broad_except(files):
    assert len(house.places(files, house.is_broad)) <= MAX_BROAD


@pytest.mark.parametrize("rule", [house.is_long, house.has_many_parameters, house.is_untyped])
def test_functions_are_short_and_typed(files, rule):
    assert house.places(files, rule) == []


def test_files_are_short(files):
    assert [file.name for file in files if file.num_lines > house.MAX_FILE] == []


def test_most_files_and_functions_are_shorter(files):
    measured = house.Measured.of(files, house.sources("tests"))
    assert statistics.median(measured.file_lines) <= 120
    assert statistics.median(measured.function_lines) <= 10
    assert house.percentile(measured.function_lines, 0.9) <= 30


def test_the_front_page_is_short():
    assert [f"README.md: {w}" for w in house.readme((ROOT / "README.md").read_text())] == []


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("print(1)", house.prints),
        ("out.print(1)", house.prints),
        ("try: pass\nexcept: pass", house.is_broad),
        ("try: pass\nexcept Exception: pass", house.is_broad),
        ("try: pass\nexcept (OSError, BaseException) as e: pass", house.is_broad),
        ("def f() -> None:\n" + "    a = 1\n" * 50, house.is_long),
        (
            "def f(a: int, b: int, c: int, d: int, e: int, /, f: int, *, g: int, h: int): pass",
            house.has_many_parameters,
        ),
        ("def f(a) -> None: pass", house.is_untyped),
        ("async def f(): pass", house.is_untyped),
    ],
)
def test_a_breach_is_seen(code, rule):
    assert len(house.places([parsed(code)], rule)) == 1


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("try: pass\nexcept (OSError, ValueError): pass", house.is_broad),
        ("def f() -> None:\n" + "    a = 1\n" * 49, house.is_long),
        (
            "def f(self, a: int, b: int, c: int, d: int, e: int, f: int, g: int): pass",
            house.has_many_parameters,
        ),
    ],
)
def test_what_is_just_allowed_is_no_breach(code, rule):
    assert house.places([parsed(code)], rule) == []


def test_a_long_front_page_is_seen():
    assert [*house.readme("\n" * 91)] == ["91 lines"]
    assert [*house.readme("a" * 161 + "\n|" + "a" * 161)] == ["line 1 has 161 characters"]
