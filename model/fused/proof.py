"""Decides whether compiled code may answer for a network: its answers against the network's, its bits alone against
those in a batch."""

import torch

from model.batch import Batch
from model.compiled import probe_batch
from model.fused.decoder import FusedDecoder
from model.fused.library import UnavailableError
from model.networks.base import Network
from model.records import Placement, PromptPlan

NUM_PROBES = 17  # histories; more than share a reading of the item table
# an item whose score ties with another's, but for rounding, changes what follows it: so many histories may differ
MOST_DIFFERENT = 1
TOLERANCE = 1e-4  # of the largest number of a query vector


def proven_decoder(network: Network, plan: PromptPlan) -> FusedDecoder:
    """The compiled pass of a network, in eval mode, under a plan.

    Raises UnavailableError with the reason where there is none, or its answers differ from the network's.
    """
    decoder = FusedDecoder(network, plan)
    batch = Batch(*probe_batch(network, NUM_PROBES, network.config.max_length))
    windows = [row[:length].tolist() for row, length in zip(batch.rows, batch.lengths.tolist(), strict=True)]
    users = batch.users.tolist()
    ours = decoder.run(windows, users)
    with torch.inference_mode():
        theirs = network.queries(batch, plan)
    vectors, prompts = torch.from_numpy(ours.vectors), torch.from_numpy(ours.prompts)
    is_close = (vectors - theirs.vectors).abs() <= TOLERANCE * theirs.vectors.abs().amax()
    is_told = (prompts == theirs.prompts).all(1)
    is_same = is_close.flatten(1).all(1) & is_told
    # without another item there was no tie; items inside a history are not told
    has_no_tie = is_told if plan.placement is not Placement.ALL else torch.zeros_like(is_told)
    if (~is_same).sum() > MOST_DIFFERENT or (~is_same & has_no_tie).any():
        raise UnavailableError("differs")
    for number, (window, user) in enumerate(zip(windows, users, strict=True)):
        alone = decoder.run([window], [user])
        if (alone.vectors != ours.vectors[number]).any() or (alone.prompts != ours.prompts[number]).any():
            raise UnavailableError("batch")
    return decoder
