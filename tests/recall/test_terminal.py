"""A record of options as a typer command: defaults, what is required, the environment, the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from recall.terminal import takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    output: Annotated[Path, typer.Option(help="Where to.")]
    kind: Annotated[str, typer.Option("--format", help="Of the file.")] = "csv"
    words: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the rows.")] = 0.1


@pytest.fixture
def ask():
    """ask(*words) -> what click says, and the records that the command got."""
    app, got = typer.Typer(rich_markup_mode=None, context_settings={"auto_envvar_prefix": "TRY"}), []

    @takes(Options)
    def copy(options: Options) -> None:
        """Copy a file."""
        got.append(options)

    app.command()(copy)
    app.callback()(lambda: None)
    return lambda *words, **more: (CliRunner().invoke(app, ["copy", *words], env=more), got)


def test_defaults_are_those_of_the_record(ask):
    ended, got = ask("--output", "there")
    assert (ended.exit_code, got) == (0, [Options(output=Path("there"))])


def test_what_is_given_is_converted_to_the_types_of_the_record(ask):
    _, got = ask("--output", "there", "--format", "json", "--words", "a", "--words", "b", "--share", "0.5")
    assert got == [Options(output=Path("there"), kind="json", words=["a", "b"], share=0.5)]


def test_the_environment_reaches_the_record(ask):
    _, got = ask(TRY_COPY_OUTPUT="there", TRY_COPY_KIND="json", TRY_COPY_SHARE="1")
    assert got == [Options(output=Path("there"), kind="json", share=1.0)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Missing option '--output'"),
        (["--output", "there", "--share", "2"], "Invalid value for '--share'"),
        (["--output", "there", "--kind", "json"], "No such option"),
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
