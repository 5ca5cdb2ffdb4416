"""The changes of a catalogue between two bundles, and their bytes in the stream that every process follows."""

from typing import Any, NamedTuple

import msgspec

from model.catalogue import ExternalId

MAX_WATCHERS = 32  # of a new item, whose histories are kept to learn its vector


class PutItem(msgspec.Struct, tag="put", frozen=True, omit_defaults=True):
    """An item is there from now on; one of the same id is replaced."""

    id: ExternalId
    attributes: dict[str, Any] | None = None  # None = those of the bundle, where it knows the item
    vectors: dict[str, list[float]] = {}  # by arm: in place of one that is learnt
    expected_watches: float | None = None  # in as long a time as the bundle's log covers; None = as usual


class DeleteItem(msgspec.Struct, tag="delete", frozen=True):
    """An item is gone until it is put again."""

    id: ExternalId


class ItemWatched(msgspec.Struct, tag="watched", frozen=True):
    """A user took a new item: its vector moves towards such users."""

    id: ExternalId
    user: ExternalId
    history: list[ExternalId]  # of the user before the item, oldest first


class Watcher(NamedTuple):
    """A watcher as a state keeps it: a list of 50 ids takes five times the memory of its bytes."""

    user: ExternalId
    packed: bytes

    @classmethod
    def of(cls, change: ItemWatched) -> "Watcher":
        return cls(change.user, encode(change.history))

    @property
    def history(self) -> list[ExternalId]:
        return _ids.decode(self.packed)


Change = PutItem | DeleteItem | ItemWatched
encode = msgspec.json.Encoder().encode
_ids: "msgspec.json.Decoder[list[ExternalId]]" = msgspec.json.Decoder(list[ExternalId])
_decoder: "msgspec.json.Decoder[Change]" = msgspec.json.Decoder(Change)


def decode(data: bytes) -> Change:
    """Raises msgspec.MsgspecError for bytes that are no change."""
    return _decoder.decode(data)
