"""The tree of errors, and its table in the docstring, which is what a reader trusts."""

import re

import pytest

from service import errors
from service.errors import RecallError
from service.remote.blocks import ERRORS, error_of

ROW = re.compile(r"[├└]── (\w+) +(\w+) +(yes|no) +(\d{3})")
TABLE = {name: (code, retryable == "yes", int(status)) for name, code, retryable, status in ROW.findall(errors.__doc__)}


def every(kind=RecallError):
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from every(below)


def test_the_table_names_every_error_and_no_other():
    assert TABLE.keys() == {kind.__name__ for kind in every()}


@pytest.mark.parametrize("kind", [*every()], ids=lambda kind: kind.__name__)
def test_the_table_says_what_an_error_is(kind):
    assert (kind.code, kind.retryable, kind.status) == TABLE[kind.__name__]


def test_no_two_errors_have_one_code():
    codes = [kind.code for kind in every()]
    assert len({*codes}) == len(codes)


def test_what_may_be_sent_again_is_a_status_that_passes():
    assert {kind.status for kind in every() if kind.retryable} == {409, 429, 503, 504}


def test_an_error_of_another_process_is_of_its_kind_here():
    assert all(error_of(kind.code, "why").__class__ is kind for kind in ERRORS.values())
