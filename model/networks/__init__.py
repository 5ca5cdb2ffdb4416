"""The systems, a file each: every one is a `Network` (networks/base.py), which is all that UserEncoder knows of it."""

from collections.abc import Mapping
from typing import Any

from model.networks.base import Network, NetworkConfig
from model.networks.bert4rec import BERT4Rec, BERT4RecConfig
from model.networks.blend import Blend, BlendConfig
from model.networks.bpr import BPR, BPRConfig
from model.networks.caser import Caser, CaserConfig
from model.networks.comirec import ComiRec, ComiRecConfig
from model.networks.deepsets import DeepSets, DeepSetsConfig
from model.networks.fism import FISM, FISMConfig
from model.networks.gru4rec import GRU4Rec, GRU4RecConfig
from model.networks.narm import NARM, NARMConfig
from model.networks.one_pass import PrefixConfig
from model.networks.popularity import PopRec, PopRecConfig
from model.networks.recgpt import RecGPT, RecGPTConfig
from model.networks.s3rec import S3Rec, S3RecConfig
from model.networks.sasrec import SASRec
from model.networks.stamp import STAMP
from model.networks.transformer import TransformerConfig

SYSTEMS: dict[str, tuple[type[Any], type[NetworkConfig]]] = {
    "recgpt": (RecGPT, RecGPTConfig),
    "comirec": (ComiRec, ComiRecConfig),
    "popularity": (PopRec, PopRecConfig),
    "bpr": (BPR, BPRConfig),
    "stamp": (STAMP, PrefixConfig),
    "gru4rec": (GRU4Rec, GRU4RecConfig),
    "narm": (NARM, NARMConfig),
    "caser": (Caser, CaserConfig),
    "bert4rec": (BERT4Rec, BERT4RecConfig),
    "sasrec": (SASRec, TransformerConfig),
    "s3rec": (S3Rec, S3RecConfig),
    "fism": (FISM, FISMConfig),
    "deepsets": (DeepSets, DeepSetsConfig),
    "blend": (Blend, BlendConfig),
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
    if missing := {"parts"} & {*settings.__dataclass_fields__} - set(config):
        raise ValueError(f"{kind} lacks {', '.join(missing)}")
    ready = settings(**config)
    built: Network = network(ready, build_parts(ready)) if isinstance(ready, BlendConfig) else network(ready)
    return built


def build_parts(config: BlendConfig) -> list[Network]:
    """The systems of a blend, all of its sizes."""
    sizes = {name: getattr(config, name) for name in ("num_items", "num_users", "max_length")}
    return [build_network(part["system"], {**part["network"], **sizes}) for part in config.parts]
