"""The shares that an experiments' file plans for an experiment; the sample ratio is judged by them."""

from pathlib import Path

import orjson
from pydantic import ValidationError

from service.errors import ConfigurationError
from service.experiments.layers import read_layers
from service.experiments.rules import FEATURE, Experiment


def read_shares(path: Path, key: str, phase: str) -> dict[str, float]:
    """Shares by variation in the file's order, the first of which is the control.

    Raises ConfigurationError where the experiment is not in the file, is none, or is in another phase.
    """
    try:
        features = orjson.loads(path.read_bytes())["features"]
        choosing = features[FEATURE].get("rules") or []
        rules = [*choosing, *(rule for _, own in read_layers(features, None) for rule in own["rules"])]
        [rule] = [rule for rule in rules if isinstance(rule, dict) and rule.get("key") == key]
        context = {"arms": frozenset(rule["variations"])}
        experiment = Experiment.model_validate(rule, context=context)
    except OSError as error:
        raise ConfigurationError(f"the experiment file {path} cannot be read: {error.strerror}") from error
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError, ValidationError) as error:
        raise ConfigurationError(f"{path} has no experiment {key!r} that could be served") from error
    names = [experiment.variation_key(index) for index in range(len(experiment.variations))]
    if experiment.phase != phase:
        raise ConfigurationError(
            f"{path} has phase {experiment.phase!r} of {key}, the report is of {phase!r}: "
            "name that one with --phase, or say the shares of the other with --weights"
        )
    return dict(zip(names, experiment.weights or [1 / len(names)] * len(names), strict=True))
