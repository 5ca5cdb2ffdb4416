"""Feedback: the actions of users, each kept once in a stream, in one atomic step with the user's history and hides.

An event is acknowledged only after Redis has it. A client that got no acknowledgement sends it again: the id makes that
harmless.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Protocol

import orjson
import structlog

from model.catalogue import ExternalId
from model.positive import PositiveRule
from service.errors import EventsRefused, EventsUnavailable, Unavailable
from service.events.streams import FEEDBACK, EventReader, MemoryEventReader, MemoryStream, RedisEventReader
from service.experiments.conditions import SESSION, logged_unit
from service.stores.hiders import KEY, NOTE, Hiders, bits_of
from service.stores.history import (
    APPEND,
    MAX_HIDDEN,
    MAX_HISTORY,
    PLACE,
    MemoryHistory,
    encode_item,
    hidden_key,
    history_key,
    slot_of,
)
from service.stores.microbatch import Microbatcher
from service.stores.redis_causes import PERMANENT, FailureCause
from service.stores.redis_client import RedisClient, RedisUnavailable, Script, ScriptCall

EVERYTHING = PositiveRule()
log = structlog.get_logger()

# KEYS: the event's mark, stream, the user's list, and for a hide the bits of those who hide. ARGV: event, mark's ttl,
# item or '', limit of the list, time of the action in ms or '' (a hide, kept in the order of arrival), and for a hide
# the user's two bits.
# The mark is set after the stream has the event, so that a refused write (out of memory) can be sent again; a broken
# history must not cost the event, hence pcall.
SCRIPT = Script.of(
    APPEND
    + PLACE
    + NOTE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if KEYS[4] then note_hider(KEYS[4], ARGV[6], ARGV[7]) end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[1])
redis.call('SET', KEYS[1], 1, 'EX', ARGV[2])
if ARGV[3] == '' then return 1 end
if ARGV[5] == '' then pcall(append, KEYS[3], ARGV[3], tonumber(ARGV[4]))
else pcall(place, KEYS[3], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[4])) end
return 1
"""
)


def mark_key(event: "FeedbackEvent", slot: bytes = b"") -> bytes:
    """Ids belong to a user: two clients that both count from 1 are two events."""
    return b"fb:" + slot + json.dumps([event.user, event.event_id]).encode()


class Action(StrEnum):
    PLAY = "play"
    LIKE = "like"
    FOLLOW = "follow"
    SHARE = "share"
    COMMENT = "comment"
    HIDE = "hide"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEvent:
    """One action of one user on one item."""

    user: str  # the id, or for somebody without one the name of the session (conditions.logged_unit)
    item: ExternalId
    action: Action
    ts_ms: int
    event_id: str = ""  # of the client; derived when empty
    request_id: str | None = None
    watch_time_ms: int | None = None
    duration_ms: int | None = None
    session: str | None = None

    def __post_init__(self) -> None:
        if not self.event_id:
            parts = [self.user, self.request_id, self.item, self.action, self.ts_ms]
            object.__setattr__(self, "event_id", blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest())

    @property
    def is_history(self) -> bool:
        """True when it says that the user took the item: a play of no time at all is none."""
        return self.action is not Action.HIDE and not (self.action is Action.PLAY and self.watch_time_ms == 0)

    @classmethod
    def from_json(cls, data: bytes) -> "FeedbackEvent":
        """From the field `e` of a stream entry."""
        fields: dict[str, Any] = orjson.loads(data)
        return cls(**fields | {"action": Action(fields["action"])})


class FeedbackSink(Protocol):
    """The place where feedback goes."""

    @property
    def events(self) -> EventReader[FeedbackEvent]:
        """Reads what was kept."""
        ...

    async def keep(self, event: FeedbackEvent, is_taken: bool = True) -> bool:
        """Keeps an event once, with its item in the user's history, or among the hidden; False when it was kept before.

        is_taken: False keeps it out of the history (HistoryRule).

        Raises EventsUnavailable when that is not certain: send it again.
        """
        ...


@dataclass(frozen=True, slots=True)
class FeedbackLimits:
    mark_ttl_s: int = 86_400  # how long a repeated id is recognised
    max_history: int = MAX_HISTORY
    max_batch: int = 128


class RedisFeedback:
    """Events that arrive together go in one pipeline; the stream is never trimmed here, its consumer does that."""

    def __init__(
        self, redis: RedisClient, limits: FeedbackLimits = FeedbackLimits(), hiders: Hiders | None = None
    ) -> None:
        """hiders: told at once of a user who hides; other processes hear of it."""
        self._redis, self._limits, self._slot, self._hiders = redis, limits, slot_of(redis), hiders
        self._writes = Microbatcher(self._write, limits.max_batch)

    @property
    def events(self) -> EventReader[FeedbackEvent]:
        return RedisEventReader(self._redis, FEEDBACK, FeedbackEvent.from_json)

    async def keep(self, event: FeedbackEvent, is_taken: bool = True) -> bool:
        try:
            [reply] = await self._writes.ask([(event, is_taken and event.is_history)])
        except RedisUnavailable as error:
            raise self._refusal(error.cause) from error
        if isinstance(reply, RedisUnavailable):
            raise self._refusal(reply.cause) from reply
        if self._hiders and event.action is Action.HIDE:
            self._hiders.add(event.user)
        return bool(reply)

    def _refusal(self, cause: FailureCause) -> Unavailable:
        """Temporary where the cause is; an open breaker has the cause that opened it."""
        lasting = self._redis.refusal if cause is FailureCause.OPEN else cause
        if lasting in PERMANENT:
            return EventsRefused(f"Redis refuses to keep events ({lasting}); sending again does not help")
        return EventsUnavailable("the event cannot be kept now; send it again")

    async def _write(self, events: list[tuple[FeedbackEvent, bool]]) -> list[int | RedisUnavailable]:
        return await self._redis.run_script(SCRIPT, [self._call(*event) for event in events])

    def _call(self, event: FeedbackEvent, is_taken: bool) -> ScriptCall:
        """is_taken: its item enters the user's history."""
        is_hide = event.action is Action.HIDE
        item = encode_item(event.item) if is_taken or is_hide else b""
        kept, limit = (hidden_key, MAX_HIDDEN) if is_hide else (history_key, self._limits.max_history)
        keys = (mark_key(event, self._slot), FEEDBACK, kept(event.user, self._slot))
        at_ms = b"" if is_hide else event.ts_ms
        arguments = (orjson.dumps(event), self._limits.mark_ttl_s, item, limit, at_ms)
        # in a Cluster nobody follows the bits (service/stores/hiders.py)
        if not is_hide or self._redis.is_cluster:
            return keys, arguments
        return (*keys, KEY), (*arguments, *bits_of(event.user))


class MemoryFeedback:
    """The twin without Redis, over the same in-memory histories; keeps the newest `max_events`."""

    def __init__(self, history: MemoryHistory, max_events: int = 100_000) -> None:
        self._history, self._max_events = history, max_events
        self._marks: OrderedDict[bytes, None] = OrderedDict()
        self._stream = MemoryStream(max_events)

    @property
    def events(self) -> EventReader[FeedbackEvent]:
        return MemoryEventReader(self._stream, FeedbackEvent.from_json)

    async def keep(self, event: FeedbackEvent, is_taken: bool = True) -> bool:
        if mark_key(event) in self._marks:
            return False
        self._marks[mark_key(event)] = None
        if len(self._marks) > self._max_events:
            self._marks.popitem(last=False)
        self._stream.append(orjson.dumps(event))
        if event.action is Action.HIDE:
            await self._history.hide(event.user, event.item)
        elif is_taken and event.is_history:
            await self._history.take(event.user, event.item, event.ts_ms)
        return True


class HistoryRule:
    """The choice of what enters histories: the rule of a setting, or those of the bundles that are served.

    A network that has learnt from long watches is asked with long watches. What does not enter stays in the event log.
    """

    def __init__(self, of_bundles: Callable[[], Collection[PositiveRule | None]], own: PositiveRule | None) -> None:
        """of_bundles: the rule of each arm now; None where a bundle does not know its own. own: counts in their place.

        There is one history of a user, from which every arm answers. Where the arms' rules differ, an event enters it
        that any of them counts: an arm can do with an item too many, and never sees one that is missing.
        """
        self._of_bundles, self._own = of_bundles, own
        names = sorted(" or ".join(rule.words) or "everything" for rule in self.in_force)
        log.info("histories_take", any_of=names, reason="the bundles' rules" if own is None else "a setting")

    @property
    def in_force(self) -> frozenset[PositiveRule]:
        """The rules of which one must count an event; a bundle that does not know its rule counts all of them."""
        if self._own is not None:
            return frozenset({self._own})
        return frozenset(rule or EVERYTHING for rule in self._of_bundles()) or frozenset({EVERYTHING})

    def takes(self, event: FeedbackEvent) -> bool:
        """Says whether the item of an event enters the history of its user. Sessions have none."""
        if not event.is_history or (event.session is not None and event.user == logged_unit(SESSION, event.session)):
            return False
        return any(rule.counts(event.action, event.watch_time_ms, event.duration_ms) for rule in self.in_force)
