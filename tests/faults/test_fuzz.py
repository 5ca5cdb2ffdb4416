"""Every parser against a few hundred spoilt inputs; `make fuzz` gives each a million."""

import asyncio
import gc
import random

import pytest

from benchmarks.faults_elsewhere import NUM_PARSERS
from benchmarks.fuzz_parsers import fuzz
from benchmarks.fuzzed_parsers import Parser, parsers
from benchmarks.mutations import byte_inputs, json_inputs

EXAMPLES = 300


@pytest.fixture
def frozen():
    """Keeps what is loaded out of the collections before memory is read, two a parser."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
def test_no_parser_raises_what_its_contract_does_not_name(tmp_path):
    async def main():
        made = parsers(tmp_path, random.Random(5))
        refusing = {name for name, parser in made.items() if parser.refusals}
        return refusing, [await fuzz(name, parser, EXAMPLES) for name, parser in made.items()]

    refusing, rows = asyncio.run(main())
    # a new parser needs its million too: row 36 of the fault suite counts them
    assert len(rows) == NUM_PARSERS
    assert {row["parser"]: row["failures"] for row in rows if row["failed"]} == {}
    # most inputs are spoilt, and some are still good: both ends of each parser are reached
    assert all(row["read"] for row in rows)
    assert {row["parser"] for row in rows if row["refused"]} == refusing
    # an HTTP head is answered by a status, a cached vector is a miss, an id is a number or text: these raise nothing
    assert {row["parser"] for row in rows} - refusing == {"HTTP heads", "cached vectors", "id rules"}


def test_an_exception_that_is_no_refusal_is_told_with_its_input():
    def read(data):
        if b"x" in data:
            raise KeyError("broken")
        if len(data) > 4:
            raise ValueError("refused")

    row = asyncio.run(fuzz("broken", Parser(read, byte_inputs([b"1x34"], random.Random(0)), (ValueError,)), 200))
    assert row["failed"] == 200 - row["read"] - row["refused"] > 0
    assert row["failures"][0].startswith("KeyError('broken') for b'")
    assert not row["passed"]


def test_the_same_seed_spoils_in_the_same_way():
    def some():
        inputs = json_inputs([{"a": [1, {"b": 2}]}, []], random.Random(3))
        return [next(inputs) for _ in range(200)]

    assert some() == some()
    assert len(set(some())) > 100
