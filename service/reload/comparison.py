"""The lists of two bundles for the same recorded histories, before the second one serves anybody."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import structlog

from model.catalogue import ExternalId
from service.engine.arms import Member, Release
from service.errors import RecallError

Histories = Sequence[Sequence[ExternalId]]
LIST, BLOCK = 50, 32  # items of a list; histories asked at once, behind which a live request waits
COMPARE_S = 10.0  # for a block: the bundle in force answers users meanwhile
MIN_COMPARED = 20  # of a floor: a few lists say nothing of a bundle
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the lists of an offered bundle are to those of the one in force."""

    bundle: str  # that was offered
    overlap: float  # mean share of items that both lists of a history hold
    histories: int  # compared

    def problem(self, floor: float) -> str | None:
        """The reason why the bundle is refused; None where it is not below the floor."""
        if self.histories < MIN_COMPARED or self.overlap >= floor:
            return None
        return (
            f"bundle {self.bundle} is refused: its lists have {self.overlap:.1%} of their items in common with those "
            f"in force, over {self.histories} recorded histories; the floor is {floor:.1%}"
        )


class ListComparison:
    """Compares bundles on the histories that a service has recorded."""

    def __init__(
        self,
        histories: Callable[[], Histories] = lambda: (),
        floor: float = 0.0,
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """floor: below this overlap a bundle is refused; 0 = never. quiet: nothing is recorded inside."""
        self._histories, self.floor, self._quiet = histories, floor, quiet

    async def compare(self, old: Release, new: Release) -> Likeness | None:
        """None where no recorded history has an item of the old bundle, or where one of the two does not answer."""
        # what the old bundle does not know was asked of another arm, or came before it; of the new one nothing is
        # demanded: a user whose items it lacks gets other lists, and that has to be seen
        asked = [history for history in self._histories() if old.catalogue.items.rows(history)]
        shares: list[float] = []
        try:
            for start in range(0, len(asked), BLOCK):
                block = asked[start : start + BLOCK]
                with self._quiet():
                    pairs = zip(await _lists(old, block), await _lists(new, block), strict=True)
                shares += [_share_in_common(a, b) for a, b in pairs if a is not None and b is not None]
        except RecallError as error:
            log.warning("bundles_not_compared", arm=new.name, bundle=new.bundle, error=str(error))
            return None
        return Likeness(new.bundle, sum(shares) / len(shares), len(shares)) if shares else None


async def _lists(release: Release, histories: Histories) -> list[set[ExternalId] | None]:
    """The items listed for each history; None where there was no answer."""
    members = [Member(None, history, (), LIST) for history in histories]
    result = await release.engine.ask_block(release.block(members, time.monotonic() + COMPARE_S))
    names = release.items.snapshot
    rows = [own[:length] for own, length in zip(result.rows, result.lengths.tolist(), strict=True)]
    return [None if place in result.errors else {*names.column(own).tolist()} for place, own in enumerate(rows)]


def _share_in_common(old: set[ExternalId], new: set[ExternalId]) -> float:
    """The share of items that both have; two empty lists are alike."""
    longest = max(len(old), len(new))
    return len(old & new) / longest if longest else 1.0
