"""The choice of what enters a user's history: feedback that the training of the arms called positive.

A network that has learnt from long watches is asked with long watches. Whatever does not enter stays in the event log.
Knows rules; of arms, that they have some.
"""

from collections.abc import Callable, Collection

import structlog

from model.positive import PositiveRule
from service.experiments.conditions import SESSION, logged_unit
from service.experiments.feedback import FeedbackEvent

EVERYTHING = PositiveRule()
log = structlog.get_logger()


class HistoryRule:
    """The rule of a setting, or those of the bundles that are served."""

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
