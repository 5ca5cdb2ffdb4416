"""The items that are kept of users: histories and hides, read in bounded time, and lists without what was shown before.

Of the latter the memory is read, the list chosen, and added before it leaves. Knows the memory, the histories and a way
to ask; of an arm, that it has items.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from model.catalogue import ExternalId
from model.ids import marks_of
from service.clock import within
from service.engine.arms import Release
from service.engine.messages import EngineRequest
from service.errors import BadRequest, Overloaded
from service.fallback import turning_point
from service.queries import RecallQuery, RecallResult
from service.stores.history import HistoryStore
from service.stores.shown import MAX_SHOWN, Shown, ShownStore, packed

NUM_TRIES = 8  # of one list, while others of the same user come between
UNAVAILABLE, NOT_KEPT = "shown_unavailable", "shown_not_kept"
AskFor = Callable[[RecallQuery], Awaitable[RecallResult]]


@dataclass(frozen=True, slots=True)
class KeptOfUsers:
    """Reads the store of histories; a store that is down costs an answer a part, never the whole."""

    histories: HistoryStore

    async def history(self, query: RecallQuery, until: float, degraded: list[str]) -> Sequence[ExternalId]:
        """The history sent, or the one kept; a history that was sent is taken as it is."""
        if query.history is not None or query.unit is None:
            return query.history or ()
        # None is not the same as empty: the store could not be asked
        kept = await within(until, self.histories.recent(query.unit))
        if kept is None:
            degraded.append("history_unavailable")
        return kept or ()

    async def hidden(self, queries: Sequence[RecallQuery], until: float) -> Sequence[Sequence[ExternalId] | None]:
        """The items that the user of each query has hidden, read in one call; None where the store could not say.

        Nothing for a query with marks of what was shown: it has left them out already (UnshownLists).
        """
        read = [query.unit is not None and query.shown is None for query in queries]
        users = [query.unit for query, is_read in zip(queries, read, strict=True) if is_read and query.unit is not None]
        kept = await within(until, self.histories.hidden(users)) if users else ()
        left = iter([None] * len(users) if kept is None else kept)
        return [next(left) if is_read else () for is_read in read]


class UnshownLists:
    """Answers queries with `not_shown`. Belongs to one event loop."""

    def __init__(self, memory: ShownStore, histories: HistoryStore) -> None:
        """histories: a patient one; what it does not tell in time is a broken promise, not a worse list."""
        self._memory, self._histories = memory, histories

    async def recall(self, query: RecallQuery, ask: AskFor) -> RecallResult:
        """The answer to a query without what its user was shown, watched or has hidden; it is added to the memory.

        Raises BadRequest for a query without a user or for too long a list, Overloaded where too many lists of one user
        are made at once, and what `ask` raises.
        """
        user, until, degraded = query.unit, turning_point(query.deadline), list[str]()
        if user is None:
            raise BadRequest("not_shown: needs a user_id, whose memory it is")
        if query.top_n > MAX_SHOWN:
            raise BadRequest(f"top_n: at most {MAX_SHOWN} with not_shown, which remembers no more")
        query, shown = await self._read(query, user, until, degraded)
        if shown is None:
            return replace_degraded(await ask(replace(query, shown=Shown().items)), [UNAVAILABLE, *degraded])
        for _ in range(NUM_TRIES):
            result = await ask(replace(query, shown=shown.items))
            added = await within(query.deadline, self._memory.add(user, shown, packed(marks_of(result.item_ids))))
            if added is None:
                return replace_degraded(result, [NOT_KEPT, *degraded])
            if added.is_done:
                return replace_degraded(result, degraded)
            shown = added.state
        raise Overloaded(f"{NUM_TRIES} other lists of this user were made meanwhile")

    async def _read(
        self, query: RecallQuery, user: str, until: float, degraded: list[str]
    ) -> tuple[RecallQuery, Shown | None]:
        """The query without what is kept of its user, and the memory; None where the store does not say."""
        store = self._histories
        reads = asyncio.gather(self._memory.recall(user), store.recent(user), store.hidden([user]))
        shown, kept, [hidden] = await within(until, reads) or (None, None, [None])
        degraded += [f"{name}_unavailable" for name, own in (("history", kept), ("hidden", hidden)) if own is None]
        exclude = (*query.exclude, *(kept or ()), *(hidden or ()))
        history = (kept or ()) if query.history is None else query.history
        return replace(query, exclude=exclude, history=history), shown


def replace_degraded(result: RecallResult, more: list[str]) -> RecallResult:
    """The same result with more reasons why it is less than it could be."""
    return replace(result, degraded=[*result.degraded, *more]) if more else result


async def without_shown(release: Release, request: EngineRequest, query: RecallQuery) -> EngineRequest:
    """The request without the items that have a mark of the query's; the same where it has none."""
    if query.shown is None or not len(query.shown):
        return request
    items = release.catalogue.items
    if not items.are_marked:
        # a moment's work for a large catalogue, once a release: other requests go on meanwhile
        await asyncio.to_thread(items.rows_of_marks, query.shown[:1])
    rows = release.items.rows_of_marks(query.shown)
    return replace(request, excluded=frozenset(rows).union(request.excluded)) if rows else request
