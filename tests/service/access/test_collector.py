"""Requests are counted by the name of their key, never by the key, and a refused file shows."""

import asyncio

import pytest

from service.access.collector import KeyCollector
from service.access.keys import new_key
from service.access.ring import KeyRing

SECRET, KEY = new_key("feed", ["recall"])
OTHER, _ = new_key("other", ["recall"])


class File:
    text = KEY.line

    def __call__(self):
        return self.text


@pytest.fixture
def file():
    return File()


@pytest.fixture
def ring(file):
    return KeyRing(file, "the file of keys")


def samples(ring):
    families = KeyCollector(ring).collect()
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_requests_with_a_key_are_counted_by_its_name(ring):
    for secret in (SECRET, SECRET, OTHER):
        ring.find(secret.encode())
    assert samples(ring) == {("recall_api_key_requests_total", "feed"): 2, ("recall_api_keys_refused",): 0}


def test_a_refused_file_shows_until_a_good_one_is_there(ring, file):
    file.text = "feed recall"
    asyncio.run(ring.look())
    assert samples(ring)["recall_api_keys_refused",] == 1
    file.text = KEY.line
    asyncio.run(ring.look())
    assert samples(ring)["recall_api_keys_refused",] == 0


def test_the_watch_takes_another_file_by_itself(ring, file):
    file.text = new_key("feed", ["admin"])[1].line

    async def scenario():
        watching = asyncio.create_task(ring.watch(0.001))
        async with asyncio.timeout(60):
            while ring.find(SECRET.encode()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        watching.cancel()

    asyncio.run(scenario())
    assert ring.find(SECRET.encode()) is None
