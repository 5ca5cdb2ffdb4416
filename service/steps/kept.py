"""The items that are kept of users, read for queries in bounded time: histories, and what they have hidden."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.catalogue import ExternalId
from service.clock import within
from service.queries import RecallQuery
from service.stores.history import HistoryStore


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

    def may_have_hidden(self, query: RecallQuery) -> bool:
        """False where it is certain that nothing is left out of this answer because its user has hidden it."""
        # marks of what was shown have left the hidden out already (service/steps/unshown.py)
        return query.unit is not None and query.shown is None and self.histories.may_have_hidden(query.unit)

    async def hidden(self, queries: Sequence[RecallQuery], until: float) -> Sequence[Sequence[ExternalId] | None]:
        """The items that the user of each query has hidden, read in one call; None where the store could not say.

        Nothing for a query with marks of what was shown: it has left them out already (service/steps/unshown.py).
        """
        read = [query.unit is not None and query.shown is None for query in queries]
        users = [query.unit for query, is_read in zip(queries, read, strict=True) if is_read and query.unit is not None]
        kept = await within(until, self.histories.hidden(users)) if users else ()
        left = iter([None] * len(users) if kept is None else kept)
        return [next(left) if is_read else () for is_read in read]
