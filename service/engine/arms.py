"""An arm of the experiment: the release that answers for it now, in a slot where another can take its place.

`Release.request`, and `Release.block` for many at once, are where ids become rows, are cut to the window and excluded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

from model.catalogue import Catalogue, ExternalId
from model.columns import Columns
from model.positive import PositiveRule
from model.records import History, ServingPlan
from model.rules import NO_RULES, ListRules
from service.catalogue.live import LiveItems
from service.catalogue.rules import check_rules
from service.catalogue.slot_vectors import SlotVectors
from service.engine.blocks import RequestBlock
from service.engine.compute import ComputeCounters
from service.engine.messages import EngineRequest
from service.engine.protocols import EngineClient
from service.errors import RecallError, StaleRelease
from service.lists.fill import FILLED, FRESH
from service.stores.vector_codec import CachedVectors, cache_key

SOURCE_NAMES = {"recgpt": "step", "blend": "step", "comirec": "interest"}
MAX_RELEASES = 3  # tried for one request; each refusal of an engine makes the release that it serves current
DRAIN_SECONDS = 10.0  # longer than any request's deadline
T = TypeVar("T")


class Member(NamedTuple):
    """One user of a block, in external ids; as the parameters of `Release.request`."""

    user: ExternalId | None
    history: Sequence[ExternalId]
    exclude: Sequence[ExternalId]
    limit: int


@dataclass(frozen=True, slots=True)
class Release:
    """A proven bundle under a plan, with the engine that computes for it. Immutable: a new bundle is a new release."""

    name: str  # of the arm
    kind: str
    bundle: str  # its digest, the first 16 hexadecimal digits
    catalogue: Catalogue
    plan: ServingPlan
    plan_digest: str
    window: int  # newest history items that can change the answer
    engine: EngineClient
    has_cache: bool = False  # vectors are cached beside the engine
    counters: ComputeCounters = ComputeCounters()
    folder: Path = Path()  # where the bundle lay when it was opened
    live: LiveItems | None = None  # None: the catalogue's items, which never change
    slots: SlotVectors | None = None  # vectors of the items that came after the bundle, where its engine is here
    dim: int = 0  # of the query vectors and items; 0 = not told
    positive: PositiveRule | None = None  # by which its training chose events; None = not known
    outcomes: tuple[str, ...] = ()  # that its answer can be asked for

    @property
    def items(self) -> LiveItems:
        """The items that may be listed, under their changes."""
        return self.live or LiveItems(self.catalogue)

    def request(
        self,
        user: ExternalId | None,
        ids: Sequence[ExternalId],
        exclude: Sequence[ExternalId] = (),
        limit: int = 0,
        rules: ListRules = NO_RULES,
        deadline: float = float("inf"),
        explain: bool = False,
    ) -> EngineRequest:
        """The request in rows of this catalogue; `limit` 0 asks for vectors alone.

        The newest `window` items that the bundle knows are encoded, all known items are excluded, an unknown user is
        row 0. The cache key holds what can change the vectors. Raises BadRequest for rules that do not fit the bundle.
        """
        # nearly every request has the one record of no rules: its identity is all that is looked at
        if rules is not NO_RULES:
            check_rules(rules, self.catalogue, self.outcomes)
        items = self.catalogue.items
        rows = items.rows(ids)
        history = History(rows[-self.window :], self.catalogue.users.row(user))
        excluded = frozenset(rows).union(items.rows(exclude))
        if (snapshot := self.items.snapshot).state.current:
            excluded |= frozenset(snapshot.rows_of((*ids, *exclude)))
        # where that is the history and nothing else, the same object: a card need not read it twice
        is_history = len(excluded) == len(rows) == len(history.items)
        return EngineRequest(
            history,
            limit,
            history.items if is_history else excluded,
            deadline=deadline,
            rules=rules,
            explain=explain,
            key=cache_key(self.bundle, self.plan_digest, history) if self.has_cache else None,
            unknown=() if len(rows) == len(ids) else tuple(item for item in ids if not items.row(item)),
        )

    def block(self, members: Sequence[Member], deadline: float = float("inf")) -> RequestBlock:
        """The same for many: one piece of work, in bulk, without a record a user. No filter."""
        items, users, window = self.catalogue.items, self.catalogue.users, self.window
        known = [items.rows(member.history) for member in members]
        histories = [History(rows[-window:], users.row(m.user)) for rows, m in zip(known, members, strict=True)]
        # what the window cuts off stays excluded
        others = [(*rows[:-window], *items.rows(m.exclude)) for rows, m in zip(known, members, strict=True)]
        if (snapshot := self.items.snapshot).state.current:
            own = [snapshot.slot_rows_of((*member.history, *member.exclude)) for member in members]
            others = [(*rows, *slots) for rows, slots in zip(others, own, strict=True)]
        keys = [cache_key(self.bundle, self.plan_digest, h) for h in histories] if self.has_cache else ()
        columns = Columns.beside(histories, [member.limit for member in members], others)
        unknown = [
            () if len(rows) == len(m.history) else tuple(item for item in m.history if not items.row(item))
            for rows, m in zip(known, members, strict=True)
        ]
        return RequestBlock(columns, deadline, keys, unknown=unknown, is_bulk=True)

    def prompts(self, vectors: CachedVectors) -> list[ExternalId]:
        """External ids of the items that were generated on the way to these vectors."""
        return self.catalogue.items.external(row for row in vectors.prompts.tolist() if row)

    def source_name(self, source: int, outcome: str | None = None) -> str:
        """step1, interest3, popular, fresh .., or the outcome that found an item. outcome: of the request."""
        if source in (FRESH, FILLED):
            return "fresh" if source == FRESH else "popular"
        if outcome or self.plan.outcomes:
            return outcome or self.plan.outcomes[source if len(self.plan.outcomes) > 1 else 0][0]
        return f"{SOURCE_NAMES.get(self.kind, 'vector')}{source + 1}"


class Tenure:
    """A release while it is in a slot, with the number of those who use it: `with slot.lease() as release`."""

    __slots__ = ("_left", "_num_users", "release")

    def __init__(self, release: Release) -> None:
        self.release = release
        self._num_users = 0
        self._left: asyncio.Event | None = None  # set once nobody uses a release that was replaced

    def __enter__(self) -> Release:
        return self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> Release:
        """Begins a use that ends with `leave`, where no `with` block spans both."""
        self._num_users += 1
        return self.release

    def leave(self) -> None:
        self._num_users -= 1
        if self._left and not self._num_users:
            self._left.set()

    async def drain(self, limit_s: float) -> None:
        """Waits until nobody uses the release any more, for `limit_s` at most."""
        if self._num_users:
            self._left = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), limit_s)


class Trial(Tenure):
    """The tenure of a canary: it counts its uses, and those that a bug ended."""

    __slots__ = ("num_failed", "num_uses", "share")

    def __init__(self, release: Release, share: float) -> None:
        super().__init__(release)
        self.share = share  # of the users
        self.num_uses = self.num_failed = 0

    def enter(self) -> Release:
        self.num_uses += 1
        return super().enter()

    def __exit__(self, *error: object) -> None:
        kind = error[0]
        # neither a caller who left nor an error that the service knows: those are counted where they are answered
        is_bug = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, RecallError)
        self.num_failed += is_bug
        self.leave()

    def includes(self, user: str) -> bool:
        """Says whether the canary answers this user; always the same of one bundle."""
        # the bundle starts the hash: another canary is tried on other users
        return crc32(user.encode("utf-8", "surrogatepass"), crc32(self.release.bundle.encode())) < self.share * 2**32


class ArmSlot:
    """The place of an arm: `current` answers, `draining` finishes what it was asked. Belongs to one event loop.

    Beside `current` a canary may answer a share of the users.
    """

    def __init__(self, release: Release) -> None:
        self._tenure = Tenure(release)
        self._trial: Trial | None = None
        self._draining: Release | None = None
        self._swapping = asyncio.Lock()

    @property
    def current(self) -> Release:
        return self._tenure.release

    @property
    def draining(self) -> Release | None:
        return self._draining

    @property
    def trial(self) -> Trial | None:
        """The tenure of the canary, while there is one."""
        return self._trial

    @property
    def releases(self) -> tuple[Release, ...]:
        """The current release, and the canary where there is one."""
        return (self.current, self._trial.release) if self._trial else (self.current,)

    def lease(self, user: str | None = None) -> Tenure:
        """A release for the time of a `with` block: its engine is not closed meanwhile.

        The canary's for the users whom it answers; without a user always the current one.
        """
        trial = self._trial
        return trial if trial and user is not None and trial.includes(user) else self._tenure

    def lease_of(self, bundle: str) -> Tenure | None:
        """The same of the release that serves this bundle; None where none does."""
        tenures = (self._tenure, self._trial)
        return next((tenure for tenure in tenures if tenure and tenure.release.bundle == bundle), None)

    def try_out(self, new: Release, share: float) -> None:
        """Has a canary answer that share of the users from now on."""
        self._trial = Trial(new, share)

    def end_trial(self) -> Trial | None:
        """Has no canary answer any more; returns the tenure of the one that did, which those who lease it still use."""
        trial, self._trial = self._trial, None
        return trial

    def promote(self) -> Tenure:
        """Makes the canary current at once; returns the tenure of the old release. Raises ValueError without one."""
        old, trial = self._tenure, self.end_trial()
        if trial is None:
            raise ValueError("there is no canary")
        self._tenure = trial
        return old

    def put(self, new: Release) -> Tenure:
        """Makes `new` current at once; returns the tenure of the old release, which those who lease it still use."""
        # no await in between: whoever leases on this loop finds one release or the other
        old, self._tenure = self._tenure, Tenure(new)
        return old

    async def swap(self, new: Release) -> Release:
        """Makes `new` current at once; returns the old release once it has answered what it was asked and is closed.

        Swaps of one slot follow each other. Whoever still waits after DRAIN_SECONDS is failed by the closing engine.
        """
        async with self._swapping:
            return await self.retire(self.put(new))

    async def retire(self, old: Tenure) -> Release:
        """Closes the engine of a release that answers no longer, once it has answered what it was asked."""
        self._draining = old.release
        try:
            await old.drain(DRAIN_SECONDS)
        finally:
            await old.release.engine.close()
            self._draining = None
        return old.release

    async def close(self) -> None:
        """Closes the engines; a swap under way closes that of the old release."""
        for release in self.releases:
            await release.engine.close()


async def with_current(slot: ArmSlot, ask: Callable[[Release], Awaitable[T]], user: str | None = None) -> T:
    """The outcome of `ask` with the release that answers now; asked anew where another took its place on the way.

    user: may be answered by a canary. Raises what `ask` raises.
    """
    for _ in range(MAX_RELEASES - 1):
        with slot.lease(user) as release, suppress(StaleRelease):
            return await ask(release)
    # the bundle in force for the last try: a canary that comes and goes may be the reason that the others failed
    with slot.lease() as release:
        return await ask(release)
