"""The proof: what differs from the network, or in a batch, is not used, and the reason is told."""

import numpy as np
import pytest

from model.fused.decoder import FusedDecoder
from model.fused.library import UnavailableError
from model.fused.proof import NUM_PROBES, proven_decoder
from model.records import Placement, PromptForm, PromptPlan, QueryVectors

PLAN = PromptPlan(1, Placement.TAIL, 2)


def let_answer(monkeypatch, change):
    """Lets every compiled pass answer with what `change` makes of its vectors and items."""
    own = FusedDecoder.run
    monkeypatch.setattr(FusedDecoder, "run", lambda *given: QueryVectors(*change(*own(*given))))


@pytest.mark.parametrize(
    "plan", [PromptPlan(), PLAN, PromptPlan(1, Placement.ALL, 2), PromptPlan(num_steps=2, form=PromptForm.SOFT)]
)
def test_a_network_is_answered_for(make_decoder, plan):
    decoder = proven_decoder(make_decoder(), plan)
    assert decoder.run([[1, 2]], [0]).vectors.shape == (1, plan.num_steps, 32)


def test_vectors_that_differ_are_refused(make_decoder, monkeypatch):
    let_answer(monkeypatch, lambda vectors, prompts: (vectors + 0.01, prompts))
    with pytest.raises(UnavailableError, match="differs"):
        proven_decoder(make_decoder(), PLAN)


def test_vectors_that_are_no_numbers_are_refused(make_decoder, monkeypatch):
    let_answer(monkeypatch, lambda vectors, prompts: (vectors * np.nan, prompts))
    with pytest.raises(UnavailableError, match="differs"):
        proven_decoder(make_decoder(), PLAN)


def let_one_history_differ(monkeypatch, change):
    """Lets the second probe be answered with what `change` makes of its vectors and items, alone and in the batch."""
    own, probes = FusedDecoder.run, []

    def run(self, windows, users):
        probes.extend(windows)
        answers = own(self, windows, users)
        for number, window in enumerate(windows):
            if window == probes[1]:
                change(answers.vectors[number], answers.prompts[number])
        return answers

    monkeypatch.setattr(FusedDecoder, "run", run)


def test_items_that_differ_are_refused(make_decoder, monkeypatch):
    let_answer(monkeypatch, lambda vectors, prompts: (vectors, prompts + 1))
    with pytest.raises(UnavailableError, match="differs"):
        proven_decoder(make_decoder(), PLAN)


def test_one_history_may_have_another_item_as_after_a_tie(make_decoder, monkeypatch):
    let_one_history_differ(monkeypatch, lambda _, prompts: np.add(prompts, 1, out=prompts))
    proven_decoder(make_decoder(), PLAN)


def test_other_vectors_without_another_item_are_no_tie(make_decoder, monkeypatch):
    let_one_history_differ(monkeypatch, lambda vectors, _: np.add(vectors, 1, out=vectors))
    with pytest.raises(UnavailableError, match="differs"):
        proven_decoder(make_decoder(), PLAN)


def test_other_bits_alone_than_in_a_batch_are_refused(make_decoder, monkeypatch):
    def change(vectors, prompts):
        return (np.nextafter(vectors, np.float32(9)) if len(vectors) == NUM_PROBES else vectors), prompts

    let_answer(monkeypatch, change)
    with pytest.raises(UnavailableError, match="batch"):
        proven_decoder(make_decoder(), PLAN)
