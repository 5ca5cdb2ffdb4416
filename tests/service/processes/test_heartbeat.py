"""The pipe between a process and its supervisor: beats, last words, silence that is counted, an end that is seen."""

import asyncio
import os
from contextlib import suppress

import pytest

from service.processes.heartbeat import BEAT, MAX_BYTES, Heart, Pulse, until_lost


@pytest.fixture
def pulse():
    pulse = Pulse()
    yield pulse
    pulse.close()


@pytest.fixture
def heart(pulse):
    pipe = os.dup(pulse.writer)
    pulse.close_writer()
    yield Heart(pipe)
    os.close(pipe)


def test_the_first_beat_says_that_it_is_ready(pulse, heart):
    pulse.look(0.1)
    assert not pulse.is_ready
    os.write(heart._pipe, BEAT)
    pulse.look(0.1)
    assert pulse.is_ready


def test_silence_is_counted_in_looks_and_ends_with_a_beat(pulse, heart):
    for _ in range(3):
        pulse.look(0.5)
    assert pulse.silent_s == pytest.approx(1.5)
    os.write(heart._pipe, BEAT)
    pulse.look(0.5)
    assert pulse.silent_s == 0


def test_forgiven_silence_is_counted_anew(pulse, heart):
    pulse.look(9.0)
    pulse.forgive()
    pulse.look(0.5)
    assert pulse.silent_s == pytest.approx(0.5)


@pytest.mark.parametrize("sentence", ["arm recgpt: no bundle", "ü" * 10, ""])
def test_last_words_are_heard(pulse, heart, sentence):
    heart.refuse(sentence)
    pulse.look(0.1)
    assert pulse.refusal == sentence
    assert not pulse.is_ready


def test_words_too_long_for_a_pipe_are_cut(pulse, heart):
    heart.refuse("x" * 3 * MAX_BYTES)
    pulse.look(0.1)
    assert pulse.refusal == "x" * (MAX_BYTES - 1)


def test_a_supervisor_that_does_not_read_stops_no_process(heart):
    with suppress(BlockingIOError):
        while os.write(heart._pipe, bytes(1 << 16)):
            pass
    heart.refuse("nobody reads this, and nobody waits for it")


def test_a_process_whose_supervisor_is_gone_is_told():
    pulse = Pulse()
    heart, told = Heart(os.dup(pulse.writer)), []
    pulse.close_writer()
    pulse.close()
    asyncio.run(asyncio.wait_for(until_lost(heart, lambda: told.append(True)), 60))
    assert told == [True]
    os.close(heart._pipe)
