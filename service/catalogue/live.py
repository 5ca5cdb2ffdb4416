"""The snapshot of one release's items, made anew when the state has changed, and its masks of filters.

Nothing is pushed: whoever asks for the snapshot gets that of the newest state, from any thread. The first that finds it
old makes the new one, and the others wait for it.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from model.attributes.filters import parse_filter
from model.catalogue import Catalogue
from model.ids import marks_of
from service.catalogue.snapshot import Flags, ItemSnapshot, MainRows, required
from service.catalogue.state import CatalogueState, LiveState

BLOCK = 256  # dead rows that are looked up one by one before they go into the mask
MAX_MASKS = 256  # filters whose rows are remembered
SlotVectors = Callable[[CatalogueState], NDArray[np.float32]]


class LiveItems:
    """The items of one bundle under the changes of this process's state."""

    def __init__(
        self, catalogue: Catalogue, live: LiveState | None = None, slot_vectors: SlotVectors | None = None
    ) -> None:
        """slot_vectors: (M, D) for a state, where an engine searches; may give others for the same state later."""
        self.catalogue, self._live, self._slot_vectors = catalogue, live or LiveState(), slot_vectors
        # with `alive`, kept for its id
        self._masks: OrderedDict[tuple[str, int], tuple[Flags, Flags | None]] = OrderedDict()
        self._slot_marks = np.zeros(0, dtype=np.uint32)  # of the slots so far: they are only ever added to
        self._lock = Lock()  # of the masks: engines and event loops ask for them
        self._taking = Lock()  # an older snapshot must not take the place of a newer one
        self._alive: tuple[tuple[int, ...], Flags] = (), np.ones(0, dtype=np.bool_)
        self._snapshot = self._take(self._live.current)

    @property
    def snapshot(self) -> ItemSnapshot:
        """The newest."""
        newest = self._snapshot
        # looked at again under the lock: another thread may have made it meanwhile
        if newest.state is not self._live.current:
            with self._taking:
                if self._snapshot.state is not self._live.current:
                    self._snapshot = self._take(self._live.current)
                newest = self._snapshot
        return newest

    def refresh(self) -> None:
        """Has the vectors of the slots asked for anew."""
        with self._taking:
            self._snapshot = self._take(self._live.current)

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
            new = marks_of([slot.id for slot in snapshot.state.slots[len(known) :]])
            self._slot_marks = known = np.append(known, new)
        slots = np.flatnonzero(np.isin(known[: snapshot.num_slots], marks)) + snapshot.num_main + 1
        return (*self.catalogue.items.rows_of_marks(marks), *slots.tolist())

    def _take(self, state: CatalogueState) -> ItemSnapshot:
        vectors = self._slot_vectors(state) if self._slot_vectors else None
        return ItemSnapshot(self.catalogue, state, self._main_rows(state), vectors)

    def _main_rows(self, state: CatalogueState) -> MainRows:
        dead = self.catalogue.items.rows([*state.hidden])
        # whole blocks alone: the mask, N bytes, is made anew once in BLOCK deletions
        settled = dead[: len(dead) - len(dead) % BLOCK]
        if not settled:
            return MainRows(None, dead)
        if self._alive[0] != settled:
            alive = np.ones(len(self.catalogue.items), dtype=np.bool_)
            alive[np.array(settled) - 1] = False
            self._alive = settled, alive
        return MainRows(self._alive[1], dead[len(settled) :])
