"""Looks now and then whether an arm's folder, or the link it is, holds another bundle, and has it served."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import structlog

from service.engine.metadata import find_bundle
from service.engine.releases import Releases, ReloadRequest
from service.errors import ConfigurationError, ReloadRefused, ReloadUnderWay

Seen = tuple[Path, str]  # folder, digest of the bundle in it
log = structlog.get_logger()


class Watcher:
    """Reloads an arm when its own folder changes; a refused bundle is not tried again until another one is there."""

    def __init__(self, releases: Releases, folders: Mapping[str, Path]) -> None:
        self._releases, self._folders = releases, folders
        self._seen: dict[str, Seen] = {}  # by arm: the last that was offered

    async def run(self, interval_s: float) -> None:
        """Looks every `interval_s` until it is cancelled."""
        while True:
            for arm, folder in self._folders.items():
                await self._look(arm, folder)
            await asyncio.sleep(interval_s)

    async def _look(self, arm: str, folder: Path) -> None:
        try:
            seen = await asyncio.to_thread(find_bundle, folder)
            if seen != self._seen.get(arm):
                await self._releases.reload(ReloadRequest(arm))
        except ReloadUnderWay:
            return
        except ConfigurationError:
            # a folder without a bundle is one that is being replaced, or a service that goes on with what it has
            return
        except ReloadRefused as error:
            log.warning("watched_bundle_refused", arm=arm, reason=str(error))
        self._seen[arm] = seen
