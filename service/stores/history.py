"""The recent history of each user, on the server's side, and the items that the user has hidden: external ids.

Filled by feedback (service/experiments/feedback.py, which appends in its own atomic script), read by requests that name
a user and send no history. Knows nothing of rows: external ids in, external ids out.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import orjson

from model.catalogue import ExternalId
from service.stores.hiders import LISTS, Hiders
from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable

MAX_HISTORY = 1000
MAX_HIDDEN = 1000  # of a user; the newest

# Part of the script that keeps feedback: the same item twice in a row is one entry, a list keeps the newest.
APPEND = """
local function append(key, item, limit)
  if redis.call('LINDEX', key, -1) ~= item then
    redis.call('RPUSH', key, item)
    redis.call('LTRIM', key, -limit, -1)
  end
  return 1
end
"""


# in a Cluster: the script that keeps feedback writes its stream and a user's lists in one step, so in one slot
SLOT = b"{recall:feedback}:"


def slot_of(redis: RedisClient) -> bytes:
    """The part of a key that puts it beside the stream of feedback; nothing but a Cluster needs one."""
    return SLOT if redis.is_cluster else b""


def history_key(user: str, slot: bytes = b"") -> bytes:
    return b"hist:" + slot + user.encode("utf-8", "surrogatepass")


def hidden_key(user: str, slot: bytes = b"") -> bytes:
    return LISTS + slot + user.encode("utf-8", "surrogatepass")


def encode_item(item: ExternalId) -> bytes:
    """A JSON scalar, so that 7 and "7" stay two items."""
    return orjson.dumps(item)


def decode_item(data: bytes) -> ExternalId | None:
    """The item, or None where the bytes are none."""
    try:
        item = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return item if isinstance(item, int | str) and not isinstance(item, bool) else None


class HistoryStore(Protocol):
    """The newest items of each user."""

    async def recent(self, user: str, limit: int | None = None) -> list[ExternalId] | None:
        """The newest items kept (up to `limit`), oldest first; empty for an unknown user.

        None when the store is down; that is counted, not raised.
        """
        ...

    def may_have_hidden(self, user: str) -> bool:
        """False where it is certain, without asking anybody, that this user has hidden nothing."""
        ...

    async def hidden(self, users: Sequence[str]) -> list[list[ExternalId] | None]:
        """The items that each of these users does not want to see; None when the store is down."""
        ...


class RedisHistory:
    """One list a user. Concurrent reads join into one pipeline at a time."""

    def __init__(
        self,
        redis: RedisClient,
        max_history: int = MAX_HISTORY,
        max_batch: int = 256,
        hiders: Hiders | None = None,
    ) -> None:
        """hiders: the users who may have hidden something; None = each may."""
        self._redis, self._max_history, self._slot, self._hiders = redis, max_history, slot_of(redis), hiders
        self._reads = Microbatcher(self._load, max_batch)
        self.num_failed = self.num_corrupt = 0

    async def recent(self, user: str, limit: int | None = None) -> list[ExternalId] | None:
        limit = self._max_history if limit is None else limit
        # LRANGE -0 -1 would be the whole list
        if limit <= 0:
            return []
        [entries] = await self._reads.ask([(history_key(user, self._slot), limit)])
        return self._decode(entries)

    def may_have_hidden(self, user: str) -> bool:
        return self._hiders is None or self._hiders.may_contain(user)

    async def hidden(self, users: Sequence[str]) -> list[list[ExternalId] | None]:
        keys = [(hidden_key(user, self._slot), MAX_HIDDEN) for user in users]
        return [self._decode(entries) for entries in await self._reads.ask(keys)]

    def _decode(self, entries: list[bytes] | None) -> list[ExternalId] | None:
        if entries is None:
            return None
        items = [decode_item(entry) for entry in entries]
        known = [item for item in items if item is not None]
        self.num_corrupt += len(items) - len(known)
        return known

    async def _load(self, wanted: list[tuple[bytes, int]]) -> list[list[bytes] | None]:
        try:
            # one user's broken key must not cost the others theirs: its reply alone is no list
            replies = await self._redis.pipeline(lambda pipe: [pipe.lrange(key, -limit, -1) for key, limit in wanted])
        except RedisUnavailable:
            replies = [None] * len(wanted)
        self.num_failed += sum(not isinstance(reply, list) for reply in replies)
        return [reply if isinstance(reply, list) else None for reply in replies]


class MemoryHistory:
    """The twin without Redis; the longest silent users go first when there are too many."""

    def __init__(self, max_history: int = MAX_HISTORY, max_users: int = 100_000) -> None:
        self._max_history, self._max_users = max_history, max_users
        self._items: dict[str, deque[ExternalId]] = {}
        self._hidden: dict[str, deque[ExternalId]] = {}

    async def recent(self, user: str, limit: int | None = None) -> list[ExternalId]:
        limit = self._max_history if limit is None else limit
        return list(self._items.get(user, ()))[-limit:] if limit > 0 else []

    def may_have_hidden(self, user: str) -> bool:
        return user in self._hidden

    async def hidden(self, users: Sequence[str]) -> list[list[ExternalId] | None]:
        return [list(self._hidden.get(user, ())) for user in users]

    async def append(self, user: str, item: ExternalId) -> None:
        """Adds the newest item, as feedback's script does in Redis; a repetition of the last changes nothing."""
        self._append(self._items, user, item, self._max_history)

    async def hide(self, user: str, item: ExternalId) -> None:
        """Adds an item that the user does not want to see."""
        self._append(self._hidden, user, item, MAX_HIDDEN)

    def _append(self, lists: dict[str, deque[ExternalId]], user: str, item: ExternalId, limit: int) -> None:
        # taken out and put back at the end: the first key is then the user who was silent longest
        items = lists.pop(user, None) or deque(maxlen=limit)
        lists[user] = items
        if not items or items[-1] != item:
            items.append(item)
        if len(lists) > self._max_users:
            del lists[next(iter(lists))]
