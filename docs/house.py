"""Measures the code against the budget of the project and names each place that breaks it: `python -m docs.house`.

It reads the syntax trees of the packages and knows nothing of what they do. tests/test_house.py holds the bounds.
"""

import ast
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ("recall", "service", "index", "model")
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_MODULES = 300, 50, 7, 14
MAX_README, MAX_LINE = 90, 160
WITHOUT_MAXIMUM = "networks"  # one file a system, however many systems there are
FRAGMENTS = ("What", "Of", "Which", "Whether", "Who", "Where", "When", "Those", "As", "By", "Not")
# Former names of things, each with the name that the field knows; and two names that say nothing.
FORMER = {
    "Recaller": "RecallPipeline",
    "Ask": "RecallQuery",
    "Answer": "RecallResult",
    "Question": "EngineRequest",
    "Found": "EngineResult",
    "Encoded": "EncodedRequest",
    "NOTHING": "EMPTY",
    "bar": "exclusions",
    "Barred": "Exclusions",
    "AsksEngine": "EngineClient",
    "Assigns": "AssignmentPolicy",
    "Trip": "LookupMode",
    "near": "get_local",
    "stored": "vector_codec",
    "Refusal": "RejectReason",
    "wire": "codec",
    "load_front": "load_arm_metadata",
    "give_back": "release_memory",
    "Pass": "CompiledForward",
    "alike": "bit_identical",
    "proposer": "next_item",
    "answering": "eval_mode",
    "pick": "gather_states",
    "FromPrefixes": "PrefixTrained",
    "EveryPosition": "CausalTrained",
    "Windows": "TrainingWindows",
    "Exam": "EvalSplit",
    "Tried": "IndexTrial",
    "Wanted": "IndexRequirements",
    "Oracle": "TrialRunner",
    "Order": "RunPlan",
    "Watch": "RunCallbacks",
    "Keeper": "ProgressCallbacks",
    "Book": "ResultsTable",
    "Done": "CompletedRun",
}
EMPTY_NAMES = ("one", "found")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[ast.AST], bool]


@dataclass(frozen=True)
class Source:
    """A Python file: its path from the root, its text and its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, name: str, text: str) -> "Source":
        return cls(name, text, ast.parse(text, name))

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


def sources(*folders: str, root: Path = ROOT) -> list[Source]:
    """The Python files of folders below the root, in order of their paths."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return [Source.parse(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def places(files: Iterable[Source], rule: Rule) -> list[str]:
    """file:line of every node that breaks a rule."""
    broken = ((file, node) for file in files for node in ast.walk(file.tree) if rule(node))
    return [f"{file.name}:{getattr(node, 'lineno', 1)}" for file, node in broken]


def prints(node: ast.AST) -> bool:
    """print(..), and console.print(..) too."""
    return isinstance(node, ast.Call) and "print" in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))


def is_broad(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    names = {getattr(part, "id", "") for part in ast.walk(node.type)} if node.type else {"Exception"}
    return bool(names & {"Exception", "BaseException"})


def is_long(node: ast.AST) -> bool:
    return isinstance(node, Function) and length(node) > MAX_FUNCTION


def is_kernel(node: ast.AST) -> bool:
    """A function that Triton compiles: pointers and constants come one by one, and have Triton's own types."""
    return isinstance(node, Function) and any(
        ast.unparse(mark).startswith("triton.jit") for mark in node.decorator_list
    )


def has_many_parameters(node: ast.AST) -> bool:
    return isinstance(node, Function) and len(parameters(node)) > MAX_PARAMETERS and not is_kernel(node)


def is_untyped(node: ast.AST) -> bool:
    """A function without the types of its parameters and result."""
    if not isinstance(node, Function) or is_kernel(node):
        return False
    return not (node.returns and all(argument.annotation for argument in parameters(node)))


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> list[ast.arg]:
    given = function.args
    return [a for a in given.posonlyargs + given.args + given.kwonlyargs if a.arg not in ("self", "cls")]


def set_from_outside(file: Source) -> Iterator[str]:
    """Assignments to an attribute of an object other than self or cls: it was not finished when it was built."""
    for node in ast.walk(file.tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield f"{file.name} {ast.unparse(node)}"


def fragments(file: Source) -> Iterator[str]:
    """Docstrings that begin with a relative word: neither a sentence nor the name of a thing."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            text = ast.get_docstring(node) or ""
            if text.split(" ", 1)[0] in FRAGMENTS:
                yield f"{file.name}:{getattr(node, 'lineno', 1)} {text.splitlines()[0]}"


def names(file: Source) -> Iterator[tuple[int, str]]:
    """Every name that a file uses, with its line: of modules, classes, functions, arguments, variables, attributes."""
    for part in Path(file.name).with_suffix("").parts:
        yield 1, part
    for node in ast.walk(file.tree):
        line = getattr(node, "lineno", 1)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield line, name
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield line, name
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield line, name
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from ((line, part) for name in modules for part in name.split("."))


def named(file: Source, words: Iterable[str]) -> list[str]:
    """file:line name of every name among words, whatever underscores stand before it."""
    listed = set(words)
    return [f"{file.name}:{line} {name}" for line, name in names(file) if name.lstrip("_") in listed]


def quoted(text: str, words: Iterable[str]) -> list[str]:
    """The words that stand between backticks in a page, fenced blocks included."""
    code = " ".join(re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL))
    return sorted({*words} & {*re.findall(r"\w+", code)})


def crowded(root: Path = ROOT) -> Iterator[str]:
    """Packages with more modules than a reader keeps in mind."""
    rooms = {path.parent for floor in FLOORS for path in (root / floor).rglob("*.py")}
    for room in sorted(rooms):
        modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
        if len(modules) > MAX_MODULES and room.name != WITHOUT_MAXIMUM:
            yield f"{room.relative_to(root)}: {len(modules)} modules"


def readme(text: str) -> Iterator[str]:
    """Reasons why a front page is too long to be read."""
    lines = text.splitlines()
    if len(lines) > MAX_README:
        yield f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE and not line.startswith("|"):
            yield f"line {number} has {len(line)} characters"


def percentile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(frozen=True)
class Measured:
    """Figures of a whole code base."""

    file_lines: list[int]
    function_lines: list[int]
    comment_share: float
    test_share: float  # lines of tests a line of the product

    @classmethod
    def of(cls, files: Sequence[Source], tests: Sequence[Source]) -> "Measured":
        lines = [file.num_lines for file in files]
        comments = sum(row.lstrip().startswith("#") for file in files for row in file.text.splitlines())
        functions = [length(function) for file in files for function in file.functions]
        return cls(lines, functions, comments / sum(lines), sum(test.num_lines for test in tests) / sum(lines))

    def __str__(self) -> str:
        files, functions = self.file_lines, self.function_lines
        return (
            f"files {len(files)}, lines {sum(files)}, file median {statistics.median(files):.0f}"
            f" / p90 {percentile(files, 0.9)} / max {max(files)}; function median {statistics.median(functions):.0f}"
            f" / p90 {percentile(functions, 0.9)} / max {max(functions)};"
            f" comments {100 * self.comment_share:.1f} %; tests:source {self.test_share:.2f}"
        )


def main() -> None:
    files = sources(*FLOORS)
    outside = [place for file in files for place in set_from_outside(file)]
    relative = [place for file in files for place in fragments(file)]
    breaches = {
        "broad except": places(files, is_broad),
        "attribute set from outside": outside,
        "docstring that is a fragment": relative,
        "former name": [place for file in files for place in named(file, [*FORMER, *EMPTY_NAMES])],
        "crowded room": [*crowded()],
        "README": [*readme((ROOT / "README.md").read_text(encoding="utf-8"))],
        "long function": places(files, is_long),
        "many parameters": places(files, has_many_parameters),
        "long file": [file.name for file in files if file.num_lines > MAX_FILE],
    }
    lines = [str(Measured.of(files, sources("tests")))]
    for rule, broken in breaches.items():
        lines += [f"{rule}: {len(broken)}", *(f"  {place}" for place in broken)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
