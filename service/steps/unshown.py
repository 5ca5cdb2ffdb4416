"""Lists without what their user was shown before: the memory is read, the list chosen, and added before it leaves.

Knows the memory, the histories and a way to ask; of an arm, that it has items.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from model.ids import marks_of
from service.clock import within
from service.engine.arms import Release
from service.engine.messages import EngineRequest
from service.errors import BadRequest, Overloaded
from service.fallback import turning_point
from service.queries import AnyResult, RecallQuery
from service.stores.history import HistoryStore
from service.stores.shown import MAX_SHOWN, Shown, ShownStore, packed

NUM_TRIES = 8  # of one list, while others of the same user come between
UNAVAILABLE, NOT_KEPT = "shown_unavailable", "shown_not_kept"
AskFor = Callable[[RecallQuery], Awaitable[AnyResult]]


class UnshownLists:
    """Answers queries with `not_shown`. Belongs to one event loop."""

    def __init__(self, memory: ShownStore, histories: HistoryStore) -> None:
        """histories: a patient one; what it does not tell in time is a broken promise, not a worse list."""
        self._memory, self._histories = memory, histories

    async def recall(self, query: RecallQuery, ask: AskFor) -> AnyResult:
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
            return (await ask(replace(query, shown=Shown().items))).with_degraded([UNAVAILABLE, *degraded])
        for _ in range(NUM_TRIES):
            result = await ask(replace(query, shown=shown.items))
            added = await within(query.deadline, self._memory.add(user, shown, packed(marks_of(result.item_ids))))
            if added is None:
                return result.with_degraded([NOT_KEPT, *degraded])
            if added.is_done:
                return result.with_degraded(degraded)
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
