"""The snapshot of one release's items, made anew when the state has changed, and its masks of filters.

Nothing is pushed: whoever asks for the snapshot gets that of the newest state, from any thread. The first that finds it
old makes the new one, and the others wait for it.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from model.attributes.filters import parse_filter
from model.catalogue import Catalogue, ExternalId
from model.ids import marks_of
from service.catalogue.folded import FOLDED_AT, FOLDED_SHARE, Fold, FoldedSlots, SlotTable
from service.catalogue.layered import Layered
from service.catalogue.slot_attributes import SlotChunks
from service.catalogue.snapshot import ItemSnapshot, MainRows, required
from service.catalogue.state import CatalogueState, Flags, LiveState

BLOCK = 256  # dead rows that are looked up one by one before they go into the mask
MAX_MASKS = 256  # filters whose rows are remembered
SlotVectors = Callable[[CatalogueState], NDArray[np.float32]]


class LiveItems:
    """The items of one bundle under the changes of this process's state."""

    def __init__(
        self,
        catalogue: Catalogue,
        live: LiveState | None = None,
        slot_vectors: SlotVectors | None = None,
        fold: Fold[ItemIndex] | None = None,
    ) -> None:
        """slot_vectors: (M, D) for a state, where an engine searches; may give others for the same state later."""
        self.catalogue, self._live, self._slot_vectors = catalogue, live or LiveState(), slot_vectors
        self._fold = fold
        self._folded: FoldedSlots[ItemIndex] | None = None
        # with `alive`, kept for its id
        self._masks: OrderedDict[tuple[str, int], tuple[Flags, Flags | None]] = OrderedDict()
        self._slot_marks = np.zeros(0, dtype=np.uint32)  # of the slots so far: they are only ever added to
        self._lock = Lock()  # of the masks: engines and event loops ask for them
        self._taking = Lock()  # an older snapshot must not take the place of a newer one
        # hidden ids that were looked up, and the rows of those
        self._dead: tuple[Layered[ExternalId, int], tuple[int, ...]] = Layered(), ()
        self._alive: tuple[tuple[int, ...], Flags] = (), np.ones(0, dtype=np.bool_)
        self._chunks = SlotChunks(catalogue)
        self._snapshot = self._next = self._take(self._live.current)

    @property
    def snapshot(self) -> ItemSnapshot:
        """The newest."""
        newest = self._snapshot
        # looked at again under the lock: another thread may have made it meanwhile
        if newest.state is not self._live.current:
            with self._taking:
                if (state := self._live.current) is not self._snapshot.state:
                    self._snapshot = self._next if self._next.state is state else self._take(state)
                newest = self._snapshot
        return newest

    def prepare(self, state: CatalogueState) -> None:
        """Makes the snapshot of a state that is about to be the current one, so that no request has to."""
        # the one prepared before, if nobody has asked for it yet: else whoever asks now would make it again
        _ = self.snapshot
        with self._taking:
            following = self._take(state)
            if "slot_attributes" in vars(self._snapshot):
                # filters are asked here: they will be of the next one too
                _ = following.slot_attributes
            self._next = following

    def refresh(self) -> None:
        """Has the vectors of the slots asked for anew."""
        with self._taking:
            # one that was prepared before does not have them
            if self._next.state.number > self._live.current.number:
                # it is the current one in a moment
                self._next = self._take(self._next.state)
            else:
                self._snapshot = self._next = self._take(self._live.current)

    def fold(self) -> None:
        """Puts all slots so far into an index, where enough have come since the last time.

        Takes a while: for a thread of its own. Snapshots do without the index until there is one.
        """
        table, last = self.snapshot.table, len(self._folded.vectors) if self._folded else 0
        if table is None or self._fold is None:
            return
        # a snapshot that was made before the last time does not know of it
        if len(table.vectors) - last + table.num_moved < max(FOLDED_AT, last // FOLDED_SHARE):
            return
        folded = FoldedSlots(table.vectors, self._fold(table.vectors))
        with self._taking:
            self._folded = folded
        self.refresh()

    def main_mask(self, snapshot: ItemSnapshot, text: str | None) -> Flags | None:
        """(N,) the bundle's rows that pass a filter and are not long dead; the same array for the same question.

        None = all. Raises BadAttribute for a filter that these attributes cannot be asked.
        """
        alive = snapshot.main.alive
        if text is None:
            return alive
        key = text, id(alive)
        with self._lock:
            if (kept := self._masks.get(key)) is not None:
                self._masks.move_to_end(key)
                return kept[0]
        attributes = required(self.catalogue.attributes)
        parsed = parse_filter(text)
        parsed.check(attributes)
        mask = parsed.allowed(attributes)
        mask = mask if alive is None else mask & alive
        with self._lock:
            self._masks[key] = mask, alive
            while len(self._masks) > MAX_MASKS:
                self._masks.popitem(last=False)
        return mask

    def rows_of_marks(self, marks: NDArray[np.uint32]) -> tuple[int, ...]:
        """Rows, those of slots behind those of the bundle, of all ids that have one of the marks (model/ids.py)."""
        snapshot, known = self.snapshot, self._slot_marks
        if len(known) < snapshot.num_slots:
            new = marks_of([snapshot.state.slots[number].id for number in range(len(known), snapshot.num_slots)])
            self._slot_marks = known = np.append(known, new)
        slots = np.flatnonzero(np.isin(known[: snapshot.num_slots], marks)) + snapshot.num_main + 1
        return (*self.catalogue.items.rows_of_marks(marks), *slots.tolist())

    def _take(self, state: CatalogueState) -> ItemSnapshot:
        return ItemSnapshot(self.catalogue, state, self._main_rows(state), self._chunks, self._table(state))

    def _table(self, state: CatalogueState) -> SlotTable[ItemIndex] | None:
        if self._slot_vectors is None:
            return None
        vectors = self._slot_vectors(state)
        # a state may be older than what was folded
        is_longer = self._folded is not None and len(vectors) >= len(self._folded)
        return self._folded.stands_for(vectors) if self._folded and is_longer else SlotTable(vectors)

    def _main_rows(self, state: CatalogueState) -> MainRows:
        known, dead = self._dead
        if len(state.hidden) < len(known):
            # the snapshot of the next state has been made before this one
            return MainRows(None, self.catalogue.items.rows([*state.hidden]))
        # ids are only ever added
        dead += self.catalogue.items.rows([*state.hidden.changed_since(known)])
        self._dead = state.hidden, dead
        # whole blocks alone: the mask, N bytes, is made anew once in BLOCK deletions
        settled = dead[: len(dead) - len(dead) % BLOCK]
        if not settled:
            return MainRows(None, dead)
        if self._alive[0] != settled:
            alive = np.ones(len(self.catalogue.items), dtype=np.bool_)
            alive[np.array(settled) - 1] = False
            self._alive = settled, alive
        return MainRows(self._alive[1], dead[len(settled) :])
