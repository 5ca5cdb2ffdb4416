"""The shares that an experiments' file plans for an experiment; the sample ratio is judged by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from service.errors import ConfigurationError
from service.experiments.rules import FEATURE, Experiment


@dataclass(frozen=True, slots=True)
class PlannedExperiment:
    """Shares by variation in the file's order, the first of which is the control."""

    phase: str
    weights: Mapping[str, float]


def read_planned(path: Path, key: str) -> PlannedExperiment:
    """The experiment `key` of a file. Raises ConfigurationError where it is not there, or is none."""
    try:
        content = orjson.loads(path.read_bytes())
        rules = content["features"][FEATURE]["rules"]
        [rule] = [rule for rule in rules if isinstance(rule, dict) and rule.get("key") == key]
        context = {"arms": frozenset(rule["variations"])}
        experiment = Experiment.model_validate(rule, context=context)
    except OSError as error:
        raise ConfigurationError(f"the experiment file {path} cannot be read: {error.strerror}") from error
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ConfigurationError(f"{path} has no experiment {key!r} that could be served") from error
    names = [experiment.variation_key(index) for index in range(len(experiment.variations))]
    weights = experiment.weights or [1 / len(names)] * len(names)
    return PlannedExperiment(experiment.phase, dict(zip(names, weights, strict=True)))
