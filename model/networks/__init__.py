"""One file a system, all behind `Network` (networks/base.py) and so behind UserEncoder."""

from collections.abc import Mapping
from typing import Any

from model.networks.base import Network, NetworkConfig
from model.networks.comirec import ComiRec, ComiRecConfig
from model.networks.recgpt import RecGPT, RecGPTConfig

SYSTEMS: dict[str, tuple[type[Any], type[NetworkConfig]]] = {
    "recgpt": (RecGPT, RecGPTConfig),
    "comirec": (ComiRec, ComiRecConfig),
}


def build_network(kind: str, config: Mapping[str, Any]) -> Network:
    """A network with fresh weights.

    Raises ValueError for an unknown system or setting.
    """
    if kind not in SYSTEMS:
        raise ValueError(f"unknown system {kind!r}; known are {', '.join(SYSTEMS)}")
    network, settings = SYSTEMS[kind]
    unknown = set(config) - {*settings.__dataclass_fields__}
    if unknown:
        raise ValueError(
            f"{kind} has no setting {', '.join(sorted(unknown))}; it has {', '.join(settings.__dataclass_fields__)}"
        )
    built: Network = network(settings(**config))
    return built
