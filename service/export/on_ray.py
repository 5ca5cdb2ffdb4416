"""The parts of an export on Ray Data: workers make their tables, this process alone writes them.

A worker opens the bundle once and makes one part after the other; histories lie in Ray's object store, once a machine.
A worker that dies is started again by Ray, and its part made again. Importing this needs the extra `ray`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import ray
import ray.data
from ray.exceptions import RayError

from service.engine.loading import load_arm
from service.errors import RecallError
from service.export.export import ListExport
from service.export.histories import UserHistories

# of a cluster, as everywhere in Ray; without it Ray starts on this machine and ends with the export
ADDRESS = "RAY_ADDRESS"
REPORTS = "RAY_USAGE_STATS_ENABLED"  # to Ray's makers, over the network


class SpreadFailed(OSError):  # noqa: N818 - named for what happened
    """Ray could not make the lists; the message is one sentence, and the parts that are done stay."""


class PartWorker:
    """Makes the tables of parts in a process of its own, from the bundle with this digest."""

    def __init__(
        self,
        bundle: Path,
        digest: str,
        device: str,
        histories: "ray.ObjectRef[UserHistories]",
        top_n: int,
        part_users: int,
    ) -> None:
        self._wanted: ListExport | None = None
        # a refusal travels as a sentence: raised here, Ray would print its stack four times
        self._refused = ""
        try:
            arm = load_arm("exported", bundle, device)
        except (RecallError, ValueError, OSError) as error:
            self._refused = str(error)
            return
        if arm.release.bundle != digest:
            self._refused = f"{bundle} is another bundle to a worker than the one that the export began with"
            return
        self._wanted = ListExport(arm, ray.get(histories), top_n, part_users)

    def __call__(self, parts: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns: the number of each part, its table as the bytes of an Arrow file, and why there is none."""
        numbers = parts["item"].tolist()
        if self._wanted is None:
            return {"part": numbers, "table": [b""] * len(numbers), "refused": [self._refused] * len(numbers)}
        made = {part: _packed(table) for part, table in self._wanted.tables(numbers, lambda _: None)}
        return {"part": list(made), "table": list(made.values()), "refused": [""] * len(made)}


@dataclass(frozen=True)
class RaySpread:
    """An export whose parts are made by Ray workers; each has a core of its own, or a card where `device` is cuda."""

    wanted: ListExport
    bundle: Path
    device: str
    num_workers: int

    def tables(self, parts: Sequence[int], on_listed: Callable[[int], None]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Each of these parts with its table, as they come. on_listed: told of a part's users at once.

        Raises SpreadFailed where workers cannot start, or fail otherwise than by dying.
        """
        if not parts:
            return
        num_workers = min(self.num_workers, len(parts))
        needs = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
        with self._ray(num_workers):
            made = ray.data.from_items(list(parts), override_num_blocks=len(parts)).map_batches(
                PartWorker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=2),
                fn_constructor_kwargs={
                    "bundle": self.bundle.absolute(),
                    "digest": self.wanted.arm.release.bundle,
                    "device": self.device,
                    "histories": ray.put(self.wanted.histories),
                    "top_n": self.wanted.top_n,
                    "part_users": self.wanted.part_users,
                },
                **needs,
            )
            for row in made.iter_rows():
                if row["refused"]:
                    raise SpreadFailed(f"a Ray worker cannot make lists: {row['refused']}")
                on_listed(len(self.wanted.users_of(row["part"])))
                yield row["part"], pl.read_ipc(BytesIO(row["table"]))

    @contextmanager
    def _ray(self, num_workers: int) -> Iterator[None]:
        """Ray, of a cluster or started for this export, without its bars, its reports to its makers and its log."""
        os.environ.setdefault(REPORTS, "0")
        address = os.environ.get(ADDRESS)
        own = {"address": address} if address else {"address": "local", "num_cpus": num_workers}
        try:
            ray.init(**own, include_dashboard=None if address else False, log_to_driver=False, logging_level="error")
            self._check_room(num_workers)
            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            yield
        except RayError as error:
            raise SpreadFailed(f"Ray could not make the lists: {_cause(error)}") from error
        finally:
            ray.shutdown()

    def _check_room(self, num_workers: int) -> None:
        """Raises SpreadFailed where Ray has less than a core or a card for each worker: it would wait for ever."""
        kind = "GPU" if self.device == "cuda" else "CPU"
        if (there := int(ray.cluster_resources().get(kind, 0))) < num_workers:
            raise SpreadFailed(f"each Ray worker needs a {kind} of its own: Ray has {there} for {num_workers}")


def _packed(table: pl.DataFrame) -> bytes:
    file = BytesIO()
    table.write_ipc(file, compression="lz4")
    return file.getvalue()


def _cause(error: BaseException) -> str:
    """The last line of what went wrong in a worker; those before are its stack."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
