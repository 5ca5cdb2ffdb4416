"""A bundle's ids and plan without its weights: for a process whose engine is another's. No torch here."""

import json
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from index.bundle.files import check_file, read_manifest
from index.bundle.manifest import CHECKPOINT
from model.catalogue import ATTRIBUTES
from model.folders.replace import settled
from model.metadata import CATALOGUE, CONFIG, CheckpointMetadata
from model.records import ServingPlan
from service.catalogue.live import LiveItems
from service.catalogue.state import LiveState
from service.engine.arms import Release
from service.engine.protocols import EngineClient
from service.errors import ConfigurationError


def wait_for_bundles(folders: list[Path], limit_s: float) -> None:
    """Returns when every manifest exists, or after `limit_s`; opening says what is missing."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not all((folder / "manifest.json").exists() for folder in folders):
        # they may still be under construction, which takes far longer than this pause
        time.sleep(0.5)


def find_bundle(folder: Path) -> tuple[Path, str]:
    """The folder that a bundle lies in, links resolved, and the bundle's short digest; nothing else is checked.

    Raises ConfigurationError with the reason where there is none.
    """
    try:
        root = settled(folder).resolve(strict=True)
        return root, read_manifest(root).digest[:16]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder}: {error}") from error


def load_arm_metadata(
    name: str,
    folder: Path,
    bundle: str,
    engine: EngineClient,
    has_cache: bool = False,
    state: LiveState | None = None,
) -> Release:
    """A release of `bundle`, whose engine is in another process, which has proven it: ids and plan, no weights.

    Raises ConfigurationError with the reason where the folder does not hold this very bundle.
    """
    try:
        manifest = read_manifest(folder)
        # the ids decide what an answer's rows mean: they are checked here too, not in the engine process alone
        for part in (f"{CHECKPOINT}/{CONFIG}", f"{CHECKPOINT}/{CATALOGUE}"):
            check_file(folder, part, manifest.files[part])
        if (beside := f"{CHECKPOINT}/{ATTRIBUTES}") in manifest.files:
            check_file(folder, beside, manifest.files[beside])
        metadata = CheckpointMetadata.read(folder / CHECKPOINT)
        # read again: the folder may have been replaced meanwhile
        digests = {manifest.digest[:16], read_manifest(folder).digest[:16]}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"arm {name}: {error}") from error
    if digests != {bundle}:
        raise ConfigurationError(f"arm {name}: {folder} no longer holds the bundle {bundle}, it was replaced")
    return Release(
        name,
        metadata.kind,
        bundle,
        metadata.catalogue,
        metadata.plan,
        plan_digest(metadata.plan),
        metadata.window,
        engine,
        has_cache,
        folder=folder,
        live=LiveItems(metadata.catalogue, state),
        dim=manifest.dim,
        positive=metadata.positive,
        outcomes=metadata.outcomes,
    )


def plan_digest(plan: ServingPlan) -> str:
    return sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:16]
