"""Keys and values kept of a user: the time they would save when a history has grown by one item, and their size.

    python -m benchmarks.state_reuse [--batch 16 --items 12101]

`whole`: the history from its first item, then the second step, as the service does. `kept`: keys and values of all but
the newest item come from memory, a block for each user as a cache would hold them, then the newest item and the second
step. Eager, one compute thread, the same query vectors. Only histories shorter than the window can be reused: a full
window slides, and every learnt position changes. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.prompts import spread_out
from model.batch import Batch
from model.generation.greedy import best_of
from model.generation.prompts import Decoding
from model.generation.tokens import Tokens
from model.networks.recgpt import RecGPT, RecGPTConfig
from recall.reproduction.facts import machine, versions

REPEATS = 40
LENGTHS = (5, 10, 20, 35, 49)


def decoding_of(network: RecGPT, batch: Batch, capacity: int) -> Decoding:
    next_item = best_of(network.item_vectors(), len(batch.users), repeated=False)
    return Decoding(network, batch.users, capacity, next_item)


def whole(network: RecGPT, batch: Batch) -> Tensor:
    """(B, 2, D) query vectors."""
    decoding = decoding_of(network, batch, batch.rows.shape[1] + 2)
    state = decoding.feed_all(Tokens.plain(batch.rows, network.start_row), batch.lengths)
    return with_second_step(decoding, state, batch)


def with_second_step(decoding: Decoding, state: Tensor, batch: Batch) -> Tensor:
    return torch.stack([state, decoding.step(state, batch.lengths + 1)], 1)


def kept_states(network: RecGPT, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """(layers, H, T, W) keys and values of each user, without the newest item."""
    decoding = decoding_of(network, batch, batch.rows.shape[1])
    decoding.feed(Tokens.plain(batch.rows[:, :-1], network.start_row))
    keys, values = (torch.stack(list(part)) for part in (decoding.cache.keys, decoding.cache.values))
    return [(keys[:, user].clone(), values[:, user].clone()) for user in range(len(batch.users))]


def from_kept(network: RecGPT, batch: Batch, kept: list[tuple[Tensor, Tensor]]) -> Tensor:
    length = batch.rows.shape[1]
    decoding = decoding_of(network, batch, length + 2)
    for part, place in ((decoding.cache.keys, 0), (decoding.cache.values, 1)):
        together = torch.stack([pair[place] for pair in kept], 1)  # (layers, B, H, T, W)
        for layer, own in enumerate(part):
            own[:, :, :length] = together[layer]
    decoding.cache.lengths, decoding.cache.width = decoding.cache.lengths + length, length
    newest = Tokens.plain(batch.rows, network.start_row).cut(length, length + 1)
    return with_second_step(decoding, decoding.feed(newest)[:, 0], batch)


def milliseconds(run: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--items", type=int, default=12_101)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = RecGPT(RecGPTConfig(num_items=options.items)).eval()
    spread_out(network)
    points = []
    with torch.inference_mode():
        for length in LENGTHS:
            rows = torch.randint(1, options.items + 1, (options.batch, length))
            batch = Batch(rows, torch.full((options.batch,), length), torch.zeros(options.batch, dtype=torch.int64))
            kept = kept_states(network, batch)
            same = torch.allclose(whole(network, batch), from_kept(network, batch, kept), atol=1e-4)
            once = milliseconds(partial(whole, network, batch))
            again = milliseconds(partial(from_kept, network, batch, kept))
            size = sum(part.nbytes for part in kept[0])
            points.append({"length": length, "whole_ms": once, "kept_ms": again, "bytes_a_user": size, "same": same})
            print(f"{length:3d} items: whole {once:.2f} ms, kept {again:.2f} ms, {size:,} bytes a user, same {same}")
    facts = {"machine": machine("cpu"), "versions": versions(), "seed": 0}
    print(json.dumps({**vars(options), "points": points, **facts}))


if __name__ == "__main__":
    main()
