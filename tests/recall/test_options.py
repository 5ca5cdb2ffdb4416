"""A record of options as a typer command: defaults, required options, options given twice, the help; values of text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from recall.options import StrictCommand, check_writable, read_ids, read_number, read_pairs, read_words, takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    output: Annotated[Path, typer.Option(help="Where to.")]
    kind: Annotated[str, typer.Option("--format", help="Of the file.")] = "csv"
    words: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the rows.")] = 0.1


@pytest.fixture
def ask():
    """ask(*words) -> what click says, and the records that the command got."""
    app, got = typer.Typer(rich_markup_mode=None), []

    @takes(Options)
    def copy(options: Options) -> None:
        """Copy a file."""
        got.append(options)

    app.command(cls=StrictCommand)(copy)
    app.callback()(lambda: None)
    return lambda *words: (CliRunner().invoke(app, ["copy", *words]), got)


def test_defaults_are_those_of_the_record(ask):
    ended, got = ask("--output", "there")
    assert (ended.exit_code, got) == (0, [Options(output=Path("there"))])


def test_what_is_given_is_converted_to_the_types_of_the_record(ask):
    _, got = ask("--output", "there", "--format", "json", "--words", "a", "--words", "b", "--share", "0.5")
    assert got == [Options(output=Path("there"), kind="json", words=["a", "b"], share=0.5)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Missing option '--output'"),
        (["--output", "there", "--share", "2"], "Invalid value for '--share'"),
        (["--output", "there", "--kind", "json"], "No such option"),
        (["--output", "here", "--output", "there"], "--output is given more than once; it takes one value"),
        (["--output", "a", "--format", "csv", "--format", "csv"], "--format is given more than once"),
    ],
)
def test_a_mistake_is_one_sentence(ask, words, reason):
    ended, got = ask(*words)
    assert (ended.exit_code, got) == (2, [])
    assert reason in ended.output.splitlines()[-1]


def test_help_is_that_of_the_command_and_its_fields(ask):
    ended, _ = ask("--help")
    assert ended.exit_code == 0
    assert "Copy a file." in ended.output
    assert all(text in ended.output for text in ("Where to.", "required]", "default: csv]", "0<=x<=1"))


def test_values_of_text():
    assert read_ids("3, clip-9,,-4") == [3, "clip-9", -4]
    assert read_ids("0003,+7,9223372036854775808,-0") == ["0003", "+7", "9223372036854775808", "-0"]
    assert read_ids('"a,b", 7') == ["a,b", 7]
    assert read_ids("7,0003", as_text=True) == ["7", "0003"]
    assert (read_ids(None), read_words(" , "), read_words("a, b")) == (None, None, ["a", "b"])
    assert read_pairs(["recgpt=a=b"], "NAME=BUNDLE") == {"recgpt": "a=b"}
    with pytest.raises(typer.BadParameter, match="'recgpt' is not NAME=BUNDLE"):
        read_pairs(["recgpt"], "NAME=BUNDLE")


def test_what_is_no_number_is_named():
    assert read_number(" .5", "the share") == 0.5
    with pytest.raises(ValueError, match="the share of recgpt is 'half', which is no number"):
        read_number("half", "the share of recgpt")


def test_a_place_for_a_file_is_checked_before_the_work(tmp_path):
    check_writable(None)
    check_writable(tmp_path / "page.html")
    check_writable(Path("page.html"))
    with pytest.raises(ValueError, match="there is no folder for the file"):
        check_writable(tmp_path / "none" / "page.html")
    with pytest.raises(ValueError, match="is a folder"):
        check_writable(tmp_path)
