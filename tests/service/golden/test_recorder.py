"""The kept histories: few, each once, for some days, in a file that only its owner reads."""

import asyncio
import threading
from contextlib import AsyncExitStack
from datetime import date, timedelta

import pytest

from model.recorded import RecordedHistory, read_recorded, write_recorded
from service.engine_process import open_recorder
from service.golden.recorder import MAX_KEPT, HistoryRecorder, forget_recorded, locked
from service.settings import load_settings

DAY = date(2026, 11, 28)


class Calendar:
    """Today, and later another day."""

    def __init__(self):
        self.day = DAY

    def __call__(self):
        return self.day


@pytest.fixture
def path(tmp_path):
    return tmp_path / "golden.json"


def run(path, use, days=7, day=lambda: DAY):
    """The outcome of `use` with a recorder, which is closed then."""

    async def main():
        recorder = HistoryRecorder(path, 1.0, days, day)
        try:
            return use(recorder)
        finally:
            await recorder.close()

    return asyncio.run(main())


def take(*histories):
    def use(recorder):
        for history in histories:
            recorder.take(history)
        return recorder.histories()

    return use


def test_a_history_is_kept_once_and_an_empty_one_never(path):
    assert run(path, take([1, "a"], [], [1, "a"], [2])) == [(1, "a"), (2,)]
    assert read_recorded(path) == [RecordedHistory(DAY, (1, "a")), RecordedHistory(DAY, (2,))]


def test_the_oldest_go_first(path):
    kept = run(path, take(*([n] for n in range(1, MAX_KEPT + 11))))
    assert (kept[0], kept[-1], len(kept)) == ((11,), (MAX_KEPT + 10,), MAX_KEPT)


def test_they_outlive_the_process_and_are_forgotten_after_their_days(path):
    run(path, take([1]))
    later = DAY + timedelta(days=6)
    # asked again, it does not become younger
    assert run(path, take([1], [2]), day=lambda: later) == [(1,), (2,)]
    assert run(path, take(), day=lambda: later + timedelta(days=1)) == [(2,)]
    assert [history.items for history in read_recorded(path)] == [(2,)]


def test_a_day_that_passes_while_it_runs_takes_them_too(path):
    calendar = Calendar()

    def use(recorder):
        recorder.take([1])
        calendar.day += timedelta(days=2)
        return recorder.histories()

    assert run(path, use, days=2, day=calendar) == []
    assert read_recorded(path) == []


def test_a_file_that_is_none_is_begun_anew(path):
    path.write_text("torn")
    assert run(path, take([3])) == [(3,)]
    assert read_recorded(path)[0].items == (3,)


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "golden.json"
    assert run(path, take([3])) == [(3,)]
    forget_recorded(path)


def test_what_could_not_be_written_is_written_once_it_can(tmp_path, monkeypatch):
    path = tmp_path / "golden.json"

    async def main():
        recorder = HistoryRecorder(path, 1.0, 7, lambda: DAY)
        recorder.take([3])
        with monkeypatch.context() as patch:
            patch.setattr("service.golden.recorder.write_recorded", refuse)
            await recorder._save()
        await recorder.close()

    def refuse(*_):
        raise OSError("the disk is full")

    asyncio.run(main())
    assert [history.items for history in read_recorded(path)] == [(3,)]


def test_a_write_that_is_cancelled_and_fails_is_made_again(tmp_path, monkeypatch):
    path = tmp_path / "golden.json"
    begun, may_end, own = threading.Event(), threading.Event(), write_recorded

    def write(*given):
        if begun.is_set():
            own(*given)
            return
        begun.set()
        may_end.wait(10)
        raise OSError("the disk is full")

    async def main():
        monkeypatch.setattr("service.golden.recorder.write_recorded", write)
        recorder = HistoryRecorder(path, 1.0, 7, lambda: DAY)
        recorder.take([3])
        saving = asyncio.create_task(recorder._save())
        await asyncio.to_thread(begun.wait, 10)
        saving.cancel()
        asyncio.get_running_loop().call_later(0.1, may_end.set)
        await recorder.close()

    asyncio.run(main())
    assert [history.items for history in read_recorded(path)] == [(3,)]


def test_a_lock_that_another_process_keeps_costs_the_write_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("service.golden.recorder.LOCK_S", 0.1)
    path = tmp_path / "golden.json"

    async def main():
        recorder = HistoryRecorder(path, 1.0, 7, lambda: DAY)
        recorder.take([3])
        with locked(path):
            await recorder.close()

    asyncio.run(main())
    assert not path.exists()


def test_services_that_share_the_file_lose_nothing_of_each_other(path):
    async def main():
        first, second = (HistoryRecorder(path, 1.0, 7, lambda: DAY) for _ in range(2))
        first.take([1])
        await first._save()
        second.take([2])
        await second._save()
        first.take([3])
        await first._save()
        known = first.histories()
        await asyncio.gather(first.close(), second.close())
        return known

    assert asyncio.run(main()) == [(1,), (2,), (3,)]
    assert [history.items for history in read_recorded(path)] == [(1,), (2,), (3,)]


def test_the_newest_of_all_services_are_kept(path):
    async def main():
        first, second = (HistoryRecorder(path, 1.0, 7, lambda: DAY) for _ in range(2))
        for start in range(0, 2 * MAX_KEPT, 4):
            for recorder, own in ((first, start), (second, start + 2)):
                recorder.take([own + 1])
                recorder.take([own + 2])
                await recorder._save()
        await asyncio.gather(first.close(), second.close())

    asyncio.run(main())
    assert [history.items for history in read_recorded(path)] == [(n + 1,) for n in range(MAX_KEPT, 2 * MAX_KEPT)]


def test_nothing_is_drawn_while_it_is_held(path):
    async def drawn():
        recorder = HistoryRecorder(path, 1.0, 7)
        try:
            with recorder.held():
                with recorder.held():
                    pass
                inside = recorder.is_drawn()
            return inside, recorder.is_drawn()
        finally:
            await recorder.close()

    assert asyncio.run(drawn()) == (False, True)


def test_nothing_is_kept_by_default_and_what_was_is_removed(path):
    async def opened(**given):
        async with AsyncExitStack() as stack:
            return open_recorder(load_settings(state_dir=path.parent, **given), stack)

    write_recorded(path, [RecordedHistory(DAY, (1,))])
    assert asyncio.run(opened(golden_share=0.01, golden_days=10_000)) is not None
    assert path.exists()
    for _ in range(2):
        assert asyncio.run(opened()) is None
        assert not path.exists()


def test_a_share_of_none_draws_nothing(path):
    async def drawn():
        recorder = HistoryRecorder(path, 0.0, 7)
        try:
            return any(recorder.is_drawn() for _ in range(100))
        finally:
            await recorder.close()

    assert not asyncio.run(drawn())
