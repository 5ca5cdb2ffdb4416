"""The engine: any batch answers like single requests, nobody hangs, and what nobody waits for is not computed."""

import asyncio
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.exact import ExactIndex
from model.attributes.filters import canonical
from model.records import History, PromptPlan, QueryVectors, ServingPlan
from model.rules import ListRules
from service.catalogue.live import LiveItems
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.engine.loading import load_arm
from service.engine.messages import EngineLimits, EngineRequest
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.lists.fill import complete
from service.stores.vector_cache import LookupMode, MemoryVectorCache
from service.stores.vector_codec import CachedVectors

N, D = 300, 4
HANG_S = 20
ITEMS = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
FILTERS = [None, {"author": {"lt": 7_010}}, {"is_live": True}, {"language": {"in": []}}]
RULES = st.sampled_from(FILTERS).map(lambda body: ListRules(body and canonical(body)))
REQUESTS = st.builds(
    EngineRequest,
    st.builds(History, st.lists(st.integers(1, N), max_size=30).map(tuple), st.integers(0, 50)),
    st.integers(1, 320),
    st.frozensets(st.integers(1, N), max_size=20),
    rules=RULES,
)


@pytest.fixture(scope="module")
def computes(bundles):
    return {arm: load_arm(arm, bundles[arm], "cpu").compute for arm in ("recgpt", "comirec")}


@pytest.mark.parametrize("arm", ["recgpt", "comirec"])
@settings(max_examples=25)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=12))
def test_any_batch_answers_like_single_requests(computes, arm, requests):
    together = computes[arm].run(requests)
    for request, result in zip(requests, together, strict=True):
        [alone] = computes[arm].run([request])
        assert result.merged.rows.tolist() == alone.merged.rows.tolist()
        assert result.merged.scores == pytest.approx(alone.merged.scores, abs=1e-5)
        assert result.vectors.vectors.tolist() == alone.vectors.vectors.tolist()


@settings(max_examples=25)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=6), known=st.sets(st.integers(0, 5)))
def test_known_vectors_among_new_ones_give_the_same_lists(computes, requests, known):
    compute = computes["recgpt"]
    expected = compute.run(requests)
    mixed = [q.with_vectors(expected[n].vectors) if n in known else q for n, q in enumerate(requests)]
    assert [r.merged.rows.tolist() for r in compute.run(mixed)] == [r.merged.rows.tolist() for r in expected]


BROKEN = RuntimeError("a sentence about memory that is for nobody")


class Gated:
    """Encodes a history to the vector of its last item, once the gate is open; item 13 breaks it, by `error`."""

    def __init__(self, is_open=True, error=BROKEN):
        self.gate, self.taken, self.error = threading.Event(), threading.Event(), error
        self.batches = []
        if is_open:
            self.gate.set()

    def encode(self, histories):
        self.batches.append([history.items for history in histories])
        self.taken.set()
        assert self.gate.wait(HANG_S)
        if any(13 in history.items for history in histories):
            raise self.error
        vectors = np.stack([ITEMS[max(history.items, default=1) - 1][None] for history in histories])
        return QueryVectors(vectors, np.zeros((len(histories), 0), dtype=np.int64))


class Recorder:
    """An observer that keeps all it hears."""

    def __init__(self):
        self.started, self.answered, self.dropped = [], [], Counter()

    def batch_started(self, size, num_waiting):
        self.started.append((size, num_waiting))

    def batch_answered(self, timings_ms):
        self.answered.append(set(timings_ms))

    def work_dropped(self, reason, count=1):
        self.dropped[reason] += count


def compute_with(encoder):
    return BatchCompute(encoder, ExactIndex(ITEMS), ServingPlan())


@asynccontextmanager
async def open_engine(encoder, limits=EngineLimits(), cache=None, index=None, **parts):
    compute = BatchCompute(encoder, index, ServingPlan()) if index else compute_with(encoder)
    engine = Engine(compute, limits, cache, **parts)
    try:
        yield engine
    finally:
        encoder.gate.set()
        await engine.close()


def ask_for(*items, **more):
    return EngineRequest(History(items), 5, **more)


async def start(engine, *requests):
    """Tasks that wait, behind one request that the compute thread holds until the gate opens."""
    first = asyncio.create_task(engine.ask(ask_for(1)))
    await asyncio.to_thread(engine.compute.encoder.taken.wait, HANG_S)
    rest = [asyncio.create_task(engine.ask(request)) for request in requests]
    await asyncio.sleep(0)
    assert engine.num_waiting == len(rest)
    return [first, *rest]


def run(main):
    return asyncio.run(asyncio.wait_for(main(), HANG_S))


def test_what_waits_while_one_computes_is_one_batch():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder) as engine:
            tasks = await start(engine, ask_for(2), ask_for(3), ask_for(4))
            encoder.gate.set()
            await asyncio.gather(*tasks)
        return encoder.batches

    assert run(main) == [[(1,)], [(2,), (3,), (4,)]]


def test_idle_engine_answers_without_waiting_for_company():
    async def main():
        encoder = Gated()
        async with open_engine(encoder) as engine:
            for item in (1, 2, 3):
                await engine.ask(ask_for(item))
        return encoder.batches

    assert run(main) == [[(1,)], [(2,)], [(3,)]]


def test_answers_go_to_those_who_asked():
    async def main():
        async with open_engine(Gated()) as engine:
            requests = [ask_for(item) for item in range(20, 60)]
            results = await asyncio.gather(*map(engine.ask, requests))
            return [r.merged for r in results], [engine.compute.run([request])[0].merged for request in requests]

    together, alone = run(main)
    assert [merged.rows.tolist() for merged in together] == [merged.rows.tolist() for merged in alone]


def test_batch_ends_where_its_tokens_do_and_a_larger_request_goes_alone():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, EngineLimits(max_batch_tokens=5)) as engine:
            long = tuple(range(20, 30))
            tasks = await start(engine, ask_for(2), ask_for(3), ask_for(4), ask_for(*long), ask_for(5))
            encoder.gate.set()
            await asyncio.gather(*tasks)
        return encoder.batches

    assert [len(batch) for batch in run(main)] == [1, 2, 1, 1, 1]


def test_batch_has_at_most_so_many_members():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, EngineLimits(max_batch=2)) as engine:
            tasks = await start(engine, *map(ask_for, range(2, 7)))
            encoder.gate.set()
            await asyncio.gather(*tasks)
        return encoder.batches

    assert [len(batch) for batch in run(main)] == [1, 2, 2, 1]


def test_failed_batch_fails_each_member_and_the_engine_lives_on():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            first, *rest = await start(engine, ask_for(2), ask_for(13), ask_for(3))
            encoder.gate.set()
            failed = await asyncio.gather(*rest, return_exceptions=True)
            await first
            after = await engine.ask(ask_for(2))
            return [type(error) for error in failed], len(after.merged.rows), heard.dropped

    assert run(main) == ([EngineFailed] * 3, 5, Counter(engine_failed=3))


OUT_OF_MEMORY = {
    "card": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "numpy": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_a_batch_that_is_too_large_for_the_memory_is_halved_once(error):
    """The half that fails again fails its members, and nobody else."""

    async def main():
        encoder, heard = Gated(is_open=False, error=error), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            first, *rest = await start(engine, ask_for(2), ask_for(3), ask_for(13), ask_for(5))
            encoder.gate.set()
            outcomes = await asyncio.gather(*rest, return_exceptions=True)
            await first
            return encoder.batches, [type(outcome).__name__ for outcome in outcomes], heard.dropped

    batches, outcomes, dropped = run(main)
    assert batches == [[(1,)], [(2,), (3,), (13,), (5,)], [(2,), (3,)], [(13,), (5,)]]
    assert outcomes == ["EngineResult", "EngineResult", "EngineFailed", "EngineFailed"]
    assert dropped == Counter(engine_failed=2)


def test_memory_that_lacks_in_the_search_halves_too():
    class Narrow(ExactIndex):
        """Searches for one query at a time."""

        def search(self, queries, *more):
            if len(queries) > 1:
                raise MemoryError
            return super().search(queries, *more)

    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, index=Narrow(ITEMS)) as engine:
            first, *rest = await start(engine, ask_for(2), ask_for(3))
            encoder.gate.set()
            return [len(result.merged.rows) for result in await asyncio.gather(first, *rest)]

    assert run(main) == [5, 5, 5]


@pytest.mark.parametrize("stays", [True, False])
def test_a_lost_card_ends_the_process_and_a_broken_batch_does_not(monkeypatch, stays):
    ended = []
    monkeypatch.setattr("service.engine.engine.end_process", ended.append)
    error = torch.AcceleratorError("CUDA error: device-side assert triggered") if stays else ValueError("a bad row")

    async def main():
        async with open_engine(Gated(error=error)) as engine:
            with pytest.raises(EngineFailed):
                await engine.ask(ask_for(13))

    run(main)
    assert len(ended) == stays


def test_failure_inside_says_nothing_to_the_client():
    async def main():
        async with open_engine(Gated()) as engine:
            with pytest.raises(EngineFailed) as caught:
                await engine.ask(ask_for(13))
            return str(caught.value)

    assert "memory" not in run(main)


def test_cancelled_work_is_dropped_and_counted():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            first, gone, last = await start(engine, ask_for(2), ask_for(3))
            gone.cancel()
            await asyncio.wait([gone])
            encoder.gate.set()
            await asyncio.gather(first, last)
            return encoder.batches, heard.dropped

    assert run(main) == ([[(1,)], [(3,)]], Counter(client_gone=1))


def test_caller_who_leaves_a_computing_batch_harms_nobody():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder) as engine:
            gone, last = await start(engine, ask_for(2))
            gone.cancel()
            encoder.gate.set()
            return len((await last).merged.rows)

    assert run(main) == 5


def test_a_hanging_thread_fails_whoever_waits_and_is_replaced():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, EngineLimits(stall_s=0.3)) as engine:
            tasks = await start(engine, ask_for(2), ask_for(3))
            failed = [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]
            problem = engine.problem
            with pytest.raises(EngineFailed, match="hangs"):
                await engine.ask(ask_for(4))
            encoder.gate.set()
            while engine.problem:  # noqa: ASYNC110  (bounded by `run`)
                await asyncio.sleep(0.01)
            return failed, problem, len((await engine.ask(ask_for(4))).merged.rows)

    failed, problem, answered = run(main)
    assert (failed, answered) == ([EngineFailed] * 3, 5)
    assert problem == "the thread recall-encode hangs: one batch for more than 0.3 s"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_noticed_and_replaced():
    async def main():
        encoder = Gated()
        encode, encoder.encode = encoder.encode, lambda histories: sys.exit("dead")
        async with open_engine(encoder) as engine:
            with pytest.raises(EngineFailed):
                await engine.ask(ask_for(1))
            assert "died" in engine.problem
            encoder.encode = encode
            while engine.problem:  # noqa: ASYNC110  (bounded by `run`)
                await asyncio.sleep(0.01)
            return len((await engine.ask(ask_for(1))).merged.rows)

    assert run(main) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replaced_thread_is_tried_until_it_answers_whatever_it_raises(monkeypatch):
    monkeypatch.setattr("service.engine.engine.RETRY_S", 0.01)

    async def main():
        encoder = Gated()
        encode, outcomes = encoder.encode, [SystemExit("dead"), IndexError("of FAISS, say"), MemoryError(), None]

        def sick(histories):
            if outcome := outcomes.pop(0):
                raise outcome
            encoder.encode = encode
            return encode(histories)

        encoder.encode = sick
        async with open_engine(encoder) as engine:
            with pytest.raises(EngineFailed):
                await engine.ask(ask_for(1))
            while engine.problem:  # noqa: ASYNC110  (bounded by `run`)
                await asyncio.sleep(0.01)
            return len((await engine.ask(ask_for(1))).merged.rows)

    assert run(main) == 5


def test_bulk_leaves_single_requests_their_place():
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, EngineLimits(max_batch_tokens=64)) as engine:
            bulk = [ask_for(n).in_bulk() for n in range(20, 60)]
            tasks = await start(engine, *bulk, ask_for(2), ask_for(3))
            encoder.gate.set()
            await asyncio.gather(*tasks)
        return encoder.batches

    _, second, *_ = run(main)
    assert second[:2] == [(2,), (3,)]
    assert len(second) == 2 + 64 // 8 // 2


def cheaper_compute():
    """Whole answers search with two vectors a user, cheap ones with one."""
    whole, cheap = Gated(), Gated()
    plan = ServingPlan(PromptPlan(num_steps=2), quotas=(1, 1))
    encode = whole.encode

    def encode_twice(histories):
        vectors, prompts = encode(histories)
        return QueryVectors(np.concatenate([vectors, -vectors], 1), prompts)

    whole.encode = encode_twice
    return BatchCompute(whole, ExactIndex(ITEMS), plan, cheaper=compute_with(cheap))


def test_cheap_and_whole_answers_of_one_batch_are_those_of_single_requests():
    compute = cheaper_compute()
    requests = [ask_for(n).cheaper() if n % 3 else ask_for(n) for n in range(2, 12)]
    for request, result in zip(requests, compute.run(requests), strict=True):
        [alone] = compute.run([request])
        assert result.merged.rows.tolist() == alone.merged.rows.tolist()
        assert len(result.vectors.vectors) == (1 if request.is_cheap else 2)


@pytest.mark.parametrize(("left_s", "expected"), [(30.0, True), (600.0, False)])
def test_a_near_deadline_takes_the_cheaper_plan_and_is_not_cached(left_s, expected):
    async def main():
        cache = MemoryVectorCache()
        engine = Engine(cheaper_compute(), cache=cache)
        engine._pace.record(120.0)
        result = await engine.ask(ask_for(4, key=b"4", deadline=time.monotonic() + left_s))
        await engine.close()
        return result.is_cheap, cache.get_local(b"4") is None

    assert run(main) == (expected, expected)


def test_what_cannot_be_ready_in_time_is_not_computed():
    async def main():
        encoder, heard = Gated(), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            engine._pace.record(120.0)
            with pytest.raises(DeadlineExceeded):
                await engine.ask(ask_for(4, deadline=time.monotonic() + 0.5))
        return encoder.batches, heard.dropped

    assert run(main) == ([], Counter(deadline=1))


def test_passed_deadline_is_told_and_not_computed():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            first, late, last = await start(engine, ask_for(2, deadline=time.monotonic()), ask_for(3))
            encoder.gate.set()
            outcomes = await asyncio.gather(first, late, last, return_exceptions=True)
            return type(outcomes[1]), encoder.batches, heard.dropped

    assert run(main) == (DeadlineExceeded, [[(1,)], [(3,)]], Counter(deadline=1))


def test_full_queue_refuses_at_once_and_counts():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, EngineLimits(max_waiting=2), observer=heard) as engine:
            tasks = await start(engine, ask_for(2), ask_for(3))
            with pytest.raises(Overloaded):
                await engine.ask(ask_for(4))
            encoder.gate.set()
            await asyncio.gather(*tasks)
            return heard.dropped, await engine.ask(ask_for(4)) is not None

    assert run(main) == (Counter(queue_full=1), True)


def test_close_fails_who_waits_and_lets_the_running_batch_end():
    async def main():
        encoder = Gated(is_open=False)
        engine = Engine(compute_with(encoder))
        tasks = await start(engine, ask_for(2), ask_for(3))
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        encoder.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        return [type(outcome).__name__ for outcome in outcomes]

    assert run(main) == ["EngineResult", "EngineFailed", "EngineFailed"]


def test_closed_engine_fails_a_late_request():
    async def main():
        async with open_engine(Gated()) as engine:
            await engine.close()
            with pytest.raises(EngineFailed):
                await engine.ask(ask_for(1))

    run(main)


def test_unused_engine_closes():
    async def main():
        async with open_engine(Gated()):
            pass

    run(main)


def test_each_batch_is_reported_with_what_is_left():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, EngineLimits(max_batch=2), observer=heard) as engine:
            tasks = await start(engine, *map(ask_for, range(2, 5)))
            encoder.gate.set()
            await asyncio.gather(*tasks)
        return heard.started, heard.answered

    started, answered = run(main)
    assert started == [(1, 0), (2, 1), (1, 0)]
    assert answered == [{"encode", "search", "merge"}] * 3


def test_answer_says_where_its_time_went(computes):
    [result] = computes["recgpt"].run([ask_for(1)])
    assert result.timings_ms.keys() == {"encode", "search", "merge"}


def test_weight_is_what_has_to_be_computed(computes):
    request = ask_for(1, 2, 3)
    [result] = computes["recgpt"].run([request])
    assert (request.weight, request.with_vectors(result.vectors).weight) == (4, 1)
    assert replace(request, history=History(())).weight == 1


def test_deadline_in_mid_batch_is_told_while_the_batch_computes():
    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, observer=heard) as engine:
            with pytest.raises(DeadlineExceeded):
                await engine.ask(ask_for(1, deadline=time.monotonic() + 0.05))
            encoder.gate.set()
            await engine.ask(ask_for(2))
            return heard.dropped

    assert run(main) == Counter(late=1)


def test_close_does_not_wait_for_a_stuck_batch(monkeypatch):
    monkeypatch.setattr("service.engine.engine.CLOSE_SECONDS", 0.05)

    async def main():
        encoder = Gated(is_open=False)
        engine = Engine(compute_with(encoder))
        task = asyncio.create_task(engine.ask(ask_for(1)))
        await asyncio.to_thread(encoder.taken.wait, HANG_S)
        await engine.close()
        encoder.gate.set()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    assert not isinstance(run(main), asyncio.CancelledError)


@pytest.mark.parametrize("key", [None, b"one"])
def test_a_thousand_who_ask_for_one_history_are_encoded_once(key):
    async def main():
        encoder = Gated(is_open=False)
        async with open_engine(encoder, EngineLimits(max_batch=50)) as engine:
            asks = [asyncio.create_task(engine.ask(ask_for(7, key=key))) for _ in range(1000)]
            await asyncio.to_thread(encoder.taken.wait, HANG_S)
            encoder.gate.set()
            results = await asyncio.gather(*asks)
            return (
                encoder.batches,
                {tuple(result.merged.rows.tolist()) for result in results},
                sum(not result.known for result in results),
            )

    batches, lists, computed = run(main)
    assert batches == [[(7,)]]
    assert (len(lists), computed) == (1, 50)


def test_a_failed_batch_is_no_sign_of_life():
    async def main():
        async with open_engine(Gated()) as engine:
            await asyncio.gather(engine.ask(ask_for(13)), return_exceptions=True)
            return engine.last_batch_at

    assert run(main) == float("-inf")


class Slow:
    """A cache as slow as Redis that knows some keys, and counts its calls."""

    def __init__(self, lookup_mode, known):
        self.lookup_mode, self.known, self.calls, self.kept = lookup_mode, known, [], []

    def get_local(self, key):
        return None

    async def get_many(self, keys):
        self.calls.append(list(keys))
        await asyncio.sleep(0.005)
        return [self.known.get(key) for key in keys]

    def put_many(self, entries):
        self.kept += [key for key, _ in entries]


def known_vectors(item):
    return CachedVectors(ITEMS[item - 1][None], np.zeros(0, dtype=np.int64))


def test_a_cache_without_memory_before_it_is_waited_for():
    async def main():
        encoder, cache = Gated(), Slow(LookupMode.AWAITED, {b"3": known_vectors(3)})
        async with open_engine(encoder, cache=cache) as engine:
            results = await asyncio.gather(*(engine.ask(ask_for(n, key=b"%d" % n)) for n in (2, 3, 4)))
            return [result.known for result in results], encoder.batches, cache.calls, cache.kept

    assert run(main) == ([False, True, False], [[(2,), (4,)]], [[b"2", b"3", b"4"]], [b"2", b"4"])


def test_an_idle_engine_does_not_ask_redis():
    async def main():
        encoder, cache = Gated(), Slow(LookupMode.OVERLAPPED, {b"3": known_vectors(3)})
        async with open_engine(encoder, cache=cache) as engine:
            result = await engine.ask(ask_for(3, key=b"3"))
            return result.known, cache.calls

    assert run(main) == (False, [])


def test_who_waits_anyway_learns_what_redis_knows():
    async def main():
        encoder, cache = (
            Gated(is_open=False),
            Slow(LookupMode.OVERLAPPED, {b"%d" % n: known_vectors(n) for n in range(20, 99)}),
        )
        async with open_engine(encoder, cache=cache) as engine:
            tasks = await start(engine, *(ask_for(n, key=b"%d" % n) for n in range(20, 60)))
            await asyncio.sleep(0.05)
            encoder.gate.set()
            results = await asyncio.gather(*tasks)
            return [result.known for result in results], len(cache.calls), len(encoder.batches[1])

    known, num_calls, num_encoded = run(main)
    assert known == [False] * 17 + [True] * 24
    assert num_calls >= 1
    assert num_encoded == 16


def test_closing_fails_who_waits_for_redis():
    async def main():
        engine = Engine(compute_with(Gated()), cache=Slow(LookupMode.AWAITED, {}))
        task = asyncio.create_task(engine.ask(ask_for(2, key=b"2")))
        await asyncio.sleep(0)
        await engine.close()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    assert isinstance(run(main), EngineFailed)


def test_times_are_those_of_the_clock_it_was_given():
    now = [100.0]

    async def main():
        encoder, heard = Gated(is_open=False), Recorder()
        async with open_engine(encoder, observer=heard, clock=lambda: now[0]) as engine:
            first, late, last = await start(engine, ask_for(2, deadline=time.monotonic() + HANG_S), ask_for(3))
            now[0] = time.monotonic() + 2 * HANG_S
            encoder.gate.set()
            outcomes = await asyncio.gather(first, late, last, return_exceptions=True)
            return type(outcomes[1]), outcomes[2].timings_ms["queue"], engine.last_batch_at, heard.dropped

    outcome, queue_ms, last_batch_at, dropped = run(main)
    assert (outcome, dropped) == (DeadlineExceeded, Counter(deadline=1))
    assert queue_ms == pytest.approx(1e3 * (now[0] - 100))
    assert last_batch_at == now[0]


@settings(max_examples=25)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=6))
def test_nothing_is_listed_that_a_filter_keeps_out(computes, tiny, requests):
    items = LiveItems(tiny.catalogue)
    for request, result in zip(requests, computes["recgpt"].run(requests), strict=True):
        rows = complete(items, result.merged, request).rows.tolist()
        mask = items.main_mask(items.snapshot, request.rules.filter)
        answerable = set(range(1, N + 1)) if mask is None else {*(1 + np.flatnonzero(mask)).tolist()}
        assert {*rows} <= answerable - request.excluded
        assert len({*rows}) == len(rows) == min(request.limit, len(answerable - request.excluded))
