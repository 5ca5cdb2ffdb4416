"""Prompt expansion with a key/value cache against two ways of recomputing, same network, same items, in one run.

    python -m benchmarks.prompts [--length 50 --batch 64 --items 12101 --threads 1]

`public`: the way of the paper's public code: for every generated item the whole padded window again, scores at every
position. `window`: what is there so far again, scores at the last position only. `cached`:
model/generation/prompts.py. Then the
second step of recall alone: one more token after what is kept, against the whole window once more; picking the
generated item is part of both. One compute thread, as the service has. The last line is JSON; the generated items of
all ways must be identical.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from model.batch import Batch
from model.generation.greedy import best_of
from model.generation.prompts import Decoding, expand_history
from model.generation.tokens import Tokens
from model.networks.recgpt import RecGPT, RecGPTConfig
from recall.reproduction.facts import machine, versions


def spread_out(network: RecGPT) -> None:
    """Fresh weights put every item at nearly the same score; larger ones let the arg max depend on the history."""
    with torch.no_grad():
        for weight in (network.items.weight, network.positions.weight, network.segments.weight):
            weight.mul_(20)


def cached(network: RecGPT, batch: Batch) -> Tensor:
    """(B, L - 1) the items Algorithm 1 generates with K = 1."""
    next_item = best_of(network.item_vectors(), len(batch.users), repeated=True)
    decoding = Decoding(network, batch.users, 2 * batch.rows.shape[1], next_item)
    expand_history(decoding, batch, 1)
    return torch.stack(decoding.generated, 1)


def recomputed(network: RecGPT, batch: Batch, every_position: bool) -> Tensor:
    """The same items, the whole window again for each."""
    plain, table, generated = Tokens.plain(batch.rows, network.start_row), network.item_vectors(), list[Tensor]()
    for n in range(batch.rows.shape[1] - 1):
        prompts = torch.stack(generated, 1)[..., None] if generated else plain.rows.new_zeros(len(plain.rows), 0, 1)
        window = plain.cut(0, n + 2).interleave(prompts)
        last = window.rows.shape[1] - 1
        states = network.states(pad(window, 2 * batch.rows.shape[1]) if every_position else window, batch.users)
        scores = states @ table.T if every_position else states[:, last : last + 1] @ table.T
        generated.append((scores.argmax(2)[:, last] if every_position else scores[:, 0].argmax(1)) + 1)
    return torch.stack(generated, 1)


def pad(tokens: Tokens, length: int) -> Tokens:
    """Row 0 on the right, as the public code pads every window to its full length."""
    spare = (0, length - tokens.rows.shape[1])
    return Tokens(*(functional.pad(part, spare) for part in (tokens.rows, tokens.segments, tokens.positions)))


def second_step(network: RecGPT, batch: Batch) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The state after one generated item, both ways: with the keys and values of the history kept, and without."""
    plain, position = Tokens.plain(batch.rows, network.start_row), batch.lengths.clamp(max=network.config.max_length)
    next_item = best_of(network.item_vectors(), len(batch.users), repeated=False)
    kept = Decoding(network, batch.users, batch.rows.shape[1] + 2, next_item)
    state = kept.feed_all(plain, batch.lengths)
    lengths, width = kept.cache.lengths, kept.cache.width

    def cached_step() -> Tensor:
        # back to where the history ended
        kept.cache.lengths, kept.cache.width = lengths, width
        return kept.step(state, position)

    def whole_step() -> Tensor:
        rows = next_item(state)[:, None]
        parts = (plain.rows, rows), (plain.segments, torch.ones_like(rows)), (plain.positions, position[:, None])
        tokens = Tokens(*(torch.cat(part, 1) for part in parts))
        fresh = network.new_cache(len(rows), tokens.rows.shape[1])
        return network.extend_last(tokens, batch.users, fresh, torch.full_like(rows[:, 0], tokens.rows.shape[1] - 1))

    return cached_step, whole_step


def seconds(run: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    times, result = [], torch.empty(0)
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-public", action="store_true", help="at 200 items the public way takes many minutes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = RecGPT(RecGPTConfig(num_items=args.items, max_length=args.length)).eval()
    spread_out(network)
    rows = torch.randint(1, args.items + 1, (args.batch, args.length))
    batch = Batch(rows, torch.full((args.batch,), args.length), torch.zeros(args.batch, dtype=torch.int64))
    with torch.inference_mode():
        cached(network, batch)
        fast, items = seconds(lambda: cached(network, batch), 7)
        window, same = seconds(lambda: recomputed(network, batch, False), 3)
        report = {"cached_s": fast, "window_s": window, "identical": bool((items == same).all())}
        if not args.skip_public:
            public, also = seconds(lambda: recomputed(network, batch, True), 1)
            report |= {
                "public_s": public,
                "times_public": public / fast,
                "identical_public": bool((items == also).all()),
            }
        once, again = (seconds(step, 15) for step in second_step(network, batch))
        report |= {
            "second_step_s": once[0],
            "second_step_recomputed_s": again[0],
            "times_second_step": again[0] / once[0],
            "same_second_step": bool(torch.allclose(once[1], again[1], atol=1e-4)),
        }
    report |= {"times_window": window / fast, "different_items": len(torch.unique(items))}
    print(json.dumps({**vars(args), **report, "seed": 0, "machine": machine("cpu"), "versions": versions()}))


if __name__ == "__main__":
    main()
