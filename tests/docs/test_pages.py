"""Pages against the repository: links lead somewhere, printed commands exist, the data are those that were measured."""

import hashlib
import re
import shlex

import pytest
import typer

from docs.house import ROOT
from recall.__main__ import make_app

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"")
CHECKSUMS = (ROOT / "docs" / "data.sha256").read_text().splitlines()


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def links(text):
    """The relative links of a page, pictures included."""
    targets = [link or picture for link, picture in LINK.findall(text)]
    return [target for target in targets if "://" not in target]


def commands(text):
    """The words of every `recall ..` that a page prints, in a block or between backticks."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    quoted = re.findall(r"`(recall [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [shlex.split(line, comments=True)[1:] for line in [*lines, *quoted] if line.startswith("recall ")]


def unknown(words):
    """The parts of a printed command that the program does not have."""
    group, words = typer.main.get_command(make_app()), list(words)
    while words and hasattr(group, "commands") and not words[0].startswith("-"):
        if words[0] not in group.commands:
            return words[:1]
        group = group.commands[words.pop(0)]
    known = {option for param in group.params for option in [*param.opts, *param.secondary_opts]} | {"--help"}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = links(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_printed_commands_exist(page):
    assert [words for words in commands(page.read_text(encoding="utf-8")) if unknown(words)] == []


def test_links_are_seen():
    assert links("[a](b.md) ![c](d/e.svg) [f](https://g.h) [i](j.md#k)") == ["b.md", "d/e.svg", "j.md"]
    assert links('<img src="l.svg" width="600">') == ["l.svg"]


def test_printed_commands_are_seen():
    page = "`recall train sasrec` or\n```\nrecall build --index a \\\n  --output b  # why\nmake demo\n```\n`recall@100`"
    assert commands(page) == [["build", "--index", "a", "--output", "b"], ["train", "sasrec"]]


def test_a_command_that_does_not_exist_is_seen():
    assert unknown(["trian"]) == ["trian"]
    assert unknown(["build", "--indx", "a"]) == ["--indx"]
    assert unknown(["bench", "http", "--only", "cached"]) == []


def test_every_decision_has_a_number_of_its_own():
    numbers = [page.name[:4] for page in ROOT.glob("docs/decisions/0*.md")]
    assert len(numbers) == len(set(numbers))
    for page in ROOT.glob("docs/decisions/0*.md"):
        assert page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:4])}. "), page.name


@pytest.mark.data
@pytest.mark.parametrize("line", CHECKSUMS, ids=lambda line: line.split()[1])
def test_the_data_are_those_of_the_page(shared_data, line):
    digest, name = line.split()
    assert hashlib.sha256((shared_data / name).read_bytes()).hexdigest() == digest
