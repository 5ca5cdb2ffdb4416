"""Dropout inside the attention is a setting of its own: of the weights by which the past is read, in training alone."""

import pytest
import torch

KINDS = ["recgpt", "sasrec", "bert4rec", "s3rec"]


def blocks_of(network):
    return network.blocks if network.kind == "recgpt" else network.transformer.blocks


def reads_alike(network, visible=None):
    """True when two passes of an untouched input through the first block give the same."""
    x = torch.randn(2, 9, network.config.dim, generator=torch.Generator().manual_seed(0))
    block = blocks_of(network)[0]
    torch.manual_seed(1)
    first, second = (block(x) if visible is None else block(x, visible) for _ in range(2))
    return torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dropout", "attention_dropout", "same"),
    [(0.0, None, True), (0.0, 0.5, False), (0.5, 0.0, False), (0.0, 0.0, True)],
)
def test_either_dropout_works_alone(make_network, kind, dropout, attention_dropout, same):
    network = make_network(kind, dropout=dropout, attention_dropout=attention_dropout)
    assert reads_alike(network.train()) == same
    assert reads_alike(network.eval())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("attention_dropout", "same"), [(0.0, True), (None, False), (0.5, False)])
def test_none_stands_for_the_dropout_of_the_rest(make_network, kind, attention_dropout, same):
    network = make_network(kind, dropout=0.5, attention_dropout=attention_dropout).train()
    attention, x = blocks_of(network)[0].attention, torch.randn(2, 9, network.config.dim)
    assert torch.equal(attention(x), attention(x)) == same


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.5, False)])
def test_a_block_that_reads_both_ways_has_it_too(make_network, dropout, same):
    network = make_network("bert4rec", dropout=0.0, attention_dropout=dropout).train()
    visible = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    assert reads_alike(network, visible) == same
    assert reads_alike(network.eval(), visible)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(make_network, share):
    with pytest.raises(ValueError, match=rf"attention dropout is {share}; it is a share from 0 to below 1"):
        make_network(attention_dropout=share)
