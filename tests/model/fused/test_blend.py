"""A blend whose decoder is compiled answers as the network does, wherever the decoder stands among its parts."""

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.encoder import UserEncoder
from model.fused.blend import FusedBlend
from model.fused.library import UnavailableError
from model.records import History, Placement, PromptForm, PromptPlan, ServingPlan

DECODER = {"system": "recgpt", "network": {"dim": 32}}
OTHERS = [{"system": "fism", "network": {"dim": 16}}, {"system": "sasrec", "network": {"dim": 8}}]
HISTORIES = [History(tuple(1 + (n * k) % 60 for k in range(n)), n % 5) for n in range(20)]
PLANS = {
    "two steps": PromptPlan(num_steps=2),
    "tail": PromptPlan(1, Placement.TAIL, 2),
    "summed": PromptPlan(0, Placement.NONE, 2, PromptForm.SOFT, 1.5, (1.0, 0.5)),
}


@pytest.fixture(scope="module", params=range(3))
def blend(request, make_network):
    parts = [*OTHERS[: request.param], DECODER, *OTHERS[request.param :]]
    network = make_network("blend", parts=parts, max_length=20)
    network.weights.copy_(torch.tensor([0.5, 2.0, 1.25]))
    return network


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_its_vectors_are_those_of_the_network(blend, make_checkpoint, plan):
    encoder = UserEncoder(make_checkpoint(blend, ServingPlan(plan)))
    answers = encoder.encode(HISTORIES)
    assert not encoder.not_fused
    batch = Batch.of([history.items for history in HISTORIES], [history.user for history in HISTORIES], 20)
    with torch.no_grad():
        vectors, prompts = blend.queries(batch, plan)
    assert np.array_equal(answers.prompts, prompts.numpy())
    np.testing.assert_allclose(answers.vectors, vectors.numpy(), atol=1e-5 * float(vectors.abs().max()))


def test_alone_and_in_a_batch_the_bits_are_the_same(blend, make_checkpoint):
    encoder = UserEncoder(make_checkpoint(blend, ServingPlan(PLANS["tail"])))
    together = encoder.encode(HISTORIES).vectors
    for row, history in zip(together, HISTORIES, strict=True):
        assert np.array_equal(encoder.encode([history]).vectors[0], row)


def test_the_padding_of_the_other_parts_is_counted_and_items_once(blend, make_checkpoint):
    encoder = UserEncoder(make_checkpoint(blend))
    encoder.encode([HISTORIES[3]])
    assert (encoder.num_tokens, encoder.num_padding) == (3, 15 - 3)
    assert not encoder.num_eager


@pytest.mark.parametrize("parts", [[DECODER], OTHERS, [{"system": "recgpt", "network": {"dim": 8}}, *OTHERS]])
def test_blends_without_a_compiled_decoder_beside_others_are_left_to_torch(make_network, parts):
    with pytest.raises(UnavailableError, match="network"):
        FusedBlend(make_network("blend", parts=parts), PromptPlan(), lambda _: pytest.fail("asked"))
