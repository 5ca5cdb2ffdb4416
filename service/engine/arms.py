"""An arm of the experiment: the release that answers for it now, in a slot where another can take its place.

`Release.request` is the one place where external ids become rows, are cut to the window and become excluded rows.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from model.attributes.columns import Kind
from model.attributes.filters import parse_filter
from model.attributes.table import BadAttribute
from model.catalogue import Catalogue, ExternalId
from model.columns import Columns
from model.records import History, ServingPlan
from model.rules import NO_RULES, ListRules
from service.catalogue.live import LiveItems
from service.catalogue.slot_vectors import SlotVectors
from service.catalogue.snapshot import required
from service.engine.blocks import RequestBlock
from service.engine.compute import ComputeCounters
from service.engine.messages import EngineRequest
from service.engine.protocols import EngineClient
from service.errors import BadRequest, StaleRelease
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
        row 0. The cache key holds only what can change the vectors. Raises BadRequest for rules that the items'
        attributes do not allow.
        """
        if rules is not NO_RULES:
            check_rules(rules, self.catalogue)
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

    def source_name(self, source: int) -> str:
        """step1, interest3, popular, fresh .."""
        if source == FRESH:
            return "fresh"
        return "popular" if source == FILLED else f"{SOURCE_NAMES.get(self.kind, 'vector')}{source + 1}"


def check_rules(rules: ListRules, catalogue: Catalogue) -> None:
    """Raises BadRequest for rules that the attributes of these items do not allow, and says why."""
    texts = [text for text in (rules.filter, *(boost.filter for boost in rules.boosts)) if text is not None]
    decays = [boost.attribute for boost in rules.boosts if boost.attribute is not None]
    if not (texts or decays or rules.caps):
        return
    try:
        attributes = required(catalogue.attributes)
        for text in texts:
            parse_filter(text).check(attributes)
        for cap in rules.caps:
            if attributes.column(cap.attribute).type.kind is Kind.NUMBER:
                raise BadAttribute(f"{cap.attribute}: a cap counts equal values, and it holds numbers")
        for name in decays:
            if not attributes.column(name).type.is_comparable:
                raise BadAttribute(f"{name}: a decay needs numbers, and it holds {attributes.column(name).type}")
    except BadAttribute as error:
        raise BadRequest(str(error)) from error


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


class ArmSlot:
    """The place of an arm: `current` answers, `draining` finishes what it was asked. Belongs to one event loop."""

    def __init__(self, release: Release) -> None:
        self._tenure = Tenure(release)
        self._draining: Release | None = None
        self._swapping = asyncio.Lock()

    @property
    def current(self) -> Release:
        return self._tenure.release

    @property
    def draining(self) -> Release | None:
        return self._draining

    def lease(self) -> Tenure:
        """The current release for the time of a `with` block: its engine is not closed meanwhile."""
        return self._tenure

    def put(self, new: Release) -> Tenure:
        """Makes `new` current at once; returns the tenure of the old release, which those who lease it still use."""
        old, self._tenure = self._tenure, Tenure(new)
        return old

    async def swap(self, new: Release) -> Release:
        """Makes `new` current at once; returns the old release once it has answered what it was asked and is closed.

        Swaps of one slot follow each other. Whoever still waits after DRAIN_SECONDS is failed by the closing engine.
        """
        async with self._swapping:
            old = self.put(new)
            self._draining = old.release
            try:
                await old.drain(DRAIN_SECONDS)
            finally:
                await old.release.engine.close()
                self._draining = None
            return old.release

    async def close(self) -> None:
        """Closes the engine of the current release; a swap under way closes the other."""
        await self.current.engine.close()


async def with_current(slot: ArmSlot, ask: Callable[[Release], Awaitable[T]]) -> T:
    """The outcome of `ask` with the release that answers now; asked anew where another took its place on the way.

    Raises what `ask` raises.
    """
    for _ in range(MAX_RELEASES - 1):
        with slot.lease() as release, suppress(StaleRelease):
            return await ask(release)
    with slot.lease() as release:
        return await ask(release)
