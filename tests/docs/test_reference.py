"""The reference names each option with its opposite and its default, and says which are required."""

import pytest
import typer

from docs.generate import option_row
from recall.__main__ import make_app


@pytest.mark.parametrize(
    ("command", "option", "names", "default"),
    [
        ("train", "resume", "`--resume/--no-resume`", "`--resume`"),
        ("train", "arm", "`arm`", "required"),
        ("train", "output", "`--output`", "required"),
        ("train", "max_epochs", "`--max-epochs`", ""),
        ("prepare", "k_core", "`--k-core`", "`0`"),
        ("prepare", "in_order", "`--in-order`", ""),
        ("serve", "port", "`--port`", "`8080`"),
        ("serve", "redis_url", "`--redis-url`", ""),
    ],
)
def test_an_option_stands_with_its_names_and_its_default(command, option, names, default):
    [param] = [param for param in typer.main.get_command(make_app()).commands[command].params if param.name == option]
    assert option_row(param)[:2] == [names, default]
