"""The recent history of each user, on the server's side, and the items that the user has hidden: external ids.

Filled by feedback (service/experiments/feedback.py, in its own atomic script), read by requests that name a user and
send no history. Items stand in the order in which the user acted, also where feedback arrives late (decision 78).
Knows nothing of rows: external ids in, external ids out.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import orjson

from model.catalogue import ExternalId
from service.stores.hiders import LISTS, Hiders
from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable

Kept = TypeVar("Kept")
MAX_HISTORY = 1000
MAX_HIDDEN = 1000  # of a user; the newest
MAX_TIMES = 8  # of consecutive actions on one item: the first and the newest

# Parts of the script that keeps feedback. Hidden items: a list keeps the newest, the same twice in a row is one.
APPEND = """
local function append(key, item, limit)
  if redis.call('LINDEX', key, -1) ~= item then
    redis.call('RPUSH', key, item)
    redis.call('LTRIM', key, -limit, -1)
  end
  return 1
end
"""

# A history: entries are an item and the times of consecutive actions on it, in their order; `place` says it in Python.
# The newest action reads one entry, a late one as much of the list's end as it goes back.
PLACE = f"""
local function parts(entry)
  local item, rest = string.match(entry, '^([^\\t]*)(.*)$')
  local times = {{}}
  for at in string.gmatch(rest, '%d+') do times[#times + 1] = tonumber(at) end
  if #times == 0 then times[1] = 0 end
  return item, times
end
local function written(item, times, from, to)
  local words = {{item}}
  for k = from, to do words[#words + 1] = string.format('%.0f', times[k]) end
  return table.concat(words, '\\t')
end
local function with(times, at)
  local k = #times
  while k > 0 and times[k] > at do k = k - 1 end
  table.insert(times, k + 1, at)
  if #times > {MAX_TIMES} then table.remove(times, 2) end
  return times
end
local function place(key, item, at, limit)
  local size, entries, i, own, times = 1
  while true do
    entries = redis.call('LRANGE', key, -size, -1)
    i = #entries
    while i > 0 and select(2, parts(entries[i]))[1] > at do i = i - 1 end
    if #entries < size then break end
    own, times = parts(entries[1])
    if times[#times] < at then break end
    size = size * 32
  end
  for j = i, 1, -1 do
    own, times = parts(entries[j])
    if times[#times] < at then break end
    for _, known in ipairs(times) do
      if own == item and known == at then return end
    end
  end
  local after, made = entries[i + 1], {{written(item, {{at}}, 1, 1)}}
  local is_within = false
  if i > 0 then
    own, times = parts(entries[i])
    if own == item then
      times = with(times, at)
      return redis.call('LSET', key, i - #entries - 1, written(item, times, 1, #times))
    end
    is_within = times[#times] > at
  end
  if is_within then
    local k = 1
    while times[k + 1] <= at do k = k + 1 end
    redis.call('LSET', key, i - #entries - 1, written(own, times, 1, k))
    made[2] = written(own, times, k + 1, #times)
  elseif after then
    own, times = parts(after)
    if own == item then
      times = with(times, at)
      return redis.call('LSET', key, i - #entries, written(item, times, 1, #times))
    end
  end
  for _, entry in ipairs(made) do
    if after then redis.call('LINSERT', key, 'BEFORE', after, entry) else redis.call('RPUSH', key, entry) end
  end
  redis.call('LTRIM', key, -limit, -1)
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
    """The item of an entry, or None where the bytes are none. Entries of earlier versions are items without times."""
    try:
        item = orjson.loads(data.partition(b"\t")[0])
    except orjson.JSONDecodeError:
        return None
    return item if isinstance(item, int | str) and not isinstance(item, bool) else None


class Taken(NamedTuple):
    """An entry of a history: an item, and when the consecutive actions on it were, oldest first."""

    item: ExternalId
    times: tuple[int, ...]  # ms; not empty

    def with_time(self, at_ms: int) -> "Taken":
        times = sorted((*self.times, at_ms))
        return self._replace(times=(*times[:1], *times[1:][-(MAX_TIMES - 1) :]))


def place(entries: list[Taken], item: ExternalId, at_ms: int) -> None:
    """Puts an action into its place by its time; one that stands there already changes nothing.

    Consecutive actions on an item are one entry, and an action that falls between two of another item divides that one.
    Of actions of the same moment those that came first go first.
    """
    after = bisect_right(entries, at_ms, key=lambda entry: entry.times[0])
    if any(entry.item == item and at_ms in entry.times for entry in entries[:after]):
        return
    before = entries[after - 1] if after else None
    if before and before.item == item:
        entries[after - 1] = before.with_time(at_ms)
    elif before and before.times[-1] > at_ms:
        late = bisect_right(before.times, at_ms)
        parts = before._replace(times=before.times[:late]), before._replace(times=before.times[late:])
        entries[after - 1 : after] = [parts[0], Taken(item, (at_ms,)), parts[1]]
    elif after < len(entries) and entries[after].item == item:
        entries[after] = entries[after].with_time(at_ms)
    else:
        entries.insert(after, Taken(item, (at_ms,)))


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
        self._taken: dict[str, list[Taken]] = {}
        self._hidden: dict[str, deque[ExternalId]] = {}

    async def recent(self, user: str, limit: int | None = None) -> list[ExternalId]:
        limit = self._max_history if limit is None else limit
        return [entry.item for entry in self._taken.get(user, ())][-limit:] if limit > 0 else []

    def may_have_hidden(self, user: str) -> bool:
        return user in self._hidden

    async def hidden(self, users: Sequence[str]) -> list[list[ExternalId] | None]:
        return [list(self._hidden.get(user, ())) for user in users]

    async def take(self, user: str, item: ExternalId, at_ms: int) -> None:
        """Puts an item into its place in the history, as feedback's script does in Redis."""
        entries = self._taken.pop(user, [])
        place(entries, item, at_ms)
        del entries[: max(0, len(entries) - self._max_history)]
        self._put(self._taken, user, entries)

    async def hide(self, user: str, item: ExternalId) -> None:
        """Adds an item that the user does not want to see; a repetition of the last changes nothing."""
        items = self._hidden.pop(user, None) or deque(maxlen=MAX_HIDDEN)
        if not items or items[-1] != item:
            items.append(item)
        self._put(self._hidden, user, items)

    def _put(self, lists: dict[str, Kept], user: str, own: Kept) -> None:
        # taken out before, and put back at the end: the first key is then the user who was silent longest
        lists[user] = own
        if len(lists) > self._max_users:
            del lists[next(iter(lists))]
