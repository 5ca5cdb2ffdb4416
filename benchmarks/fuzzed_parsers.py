"""The parsers of the service, with inputs to spoil and the errors that their contracts name."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import ormsgpack
import safetensors.numpy
from uvicorn.config import Config
from uvicorn.server import ServerState

from benchmarks.fuzz_seeds import ARMS, BODIES, EVENT, FEATURES, HEADS, URLS
from benchmarks.mutations import byte_inputs, json_inputs
from index.bundle import manifest as manifest_module
from index.bundle.manifest import Manifest
from index.bundle.tensors import read_arrays
from model import ids
from model.recorded import parse_recorded
from model.records import History
from recall.bench.bundles import Sizes, make_bundle
from service.access.keys import Scope, new_key, parse_keys
from service.admission.gate import Gate
from service.catalogue import changes
from service.consumer.tables import TABLES, EventTable
from service.engine.blocks import ResultBlock
from service.engine.messages import EngineRequest
from service.errors import BadRequest, ConfigurationError, EngineFailed
from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.conditions import RequestFacts
from service.http import codec, schemas
from service.http.protocol import BoundedProtocol
from service.http.server import gated
from service.remote import messages
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage
from service.remote.messages import EngineRefusal
from service.stores import vector_codec
from service.stores.redis_urls import parse_address
from service.stores.vector_codec import CachedVectors

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Parser:
    """A reader of bytes that others may write, its inputs, and what it may raise."""

    read: Read
    inputs: Iterator[bytes]
    refusals: tuple[type[Exception], ...]


def read_body(name: str, parse: Callable[[type[schemas.Body], bytes], schemas.Body] = codec.parse) -> Read:
    """parse: of JSON or of MessagePack."""
    model: type[schemas.Body] = getattr(schemas, name)

    def read(data: bytes) -> None:
        body = parse(model, data)
        if isinstance(body, schemas.RecallRequest):
            codec.to_query(body, "r", codec.Deadline(0.0, is_named=False))
        elif isinstance(body, schemas.BatchRequest):
            for member in body.requests:
                # a bad member is refused by itself
                with suppress(BadRequest):
                    recall = codec.parse_object(schemas.RecallRequest, member)
                    codec.to_query(recall, "r", codec.Deadline(0.0, is_named=False))
        elif isinstance(body, schemas.FeedbackRequest):
            codec.to_event(body, 1)
        elif isinstance(body, schemas.ItemBody):
            codec.to_put(body)

    return read


VISITOR = RequestFacts("s", {"country": "de", "age": 17})


def read_url(data: bytes) -> None:
    parse_address(data.decode(errors="surrogateescape"), "cache")


def read_ids(data: bytes) -> None:
    text = data.decode(errors="replace")
    number = ids.as_integer(text)
    if number is not None and str(number) != text:
        raise AssertionError(f"{text!r} was taken for {number}")
    ids.other_form(text)
    ids.marks_of([text, number or 0])


def read_ask(data: bytes) -> None:
    for message in messages.decode_from_worker(data):
        if isinstance(message, AskBlock):
            message.block()


def read_answer(data: bytes) -> None:
    for message in messages.decode_from_engine(data):
        if isinstance(message, AnswerBlock):
            message.result()
            with suppress(BadMessage):
                message.single()


class Peer(asyncio.Transport):
    """A connection whose other end reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: object) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True


class Heads:
    """Connections of a server whose application answers nothing; one an input. Needs a running event loop."""

    def __init__(self) -> None:
        async def answer(_scope: Any, _receive: Any, _send: Any) -> None:
            return

        # the gate admits nothing: a request is parsed to its end, and no task is left behind
        self._kind: type[BoundedProtocol] = gated(Gate(1.0))
        self._config = Config(answer, http=self._kind, log_config=None, access_log=False, lifespan="off")
        self._config.load()
        self._state = ServerState()

    def read(self, data: bytes) -> None:
        protocol, peer = self._kind(self._config, self._state, {}), Peer()
        protocol.connection_made(peer)
        for start in range(0, len(data), 97):
            if not peer.is_closing():
                protocol.data_received(data[start : start + 97])
        protocol.connection_lost(None)


def event_parser(table: EventTable, rng: random.Random) -> Parser:
    event = {name: EVENT[name] for name in EVENT if name in table.row.__struct_fields__}
    return Parser(
        lambda data: table.decode("1-1", data), json_inputs([event], rng), (msgspec.DecodeError, UnicodeDecodeError)
    )


def message_parsers(rng: random.Random) -> dict[str, Parser]:
    """Both ends of the link between processes."""
    request = EngineRequest(History((1, 2, 3), user=4), 5, excluded=(7, 8), key=b"k" * 20)
    asked = messages.encode([AskBlock.single(1, "recgpt", "b", request), messages.AskAlive(2), messages.ForgetAsk(1)])
    rows, scores, sources = np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int16)
    vectors, prompts = np.zeros((1, 3, 4), np.float32), np.zeros((1, 2), np.int32)
    told = np.array([2], np.int32), rows, scores, sources, vectors, prompts, np.array([True])
    result = ResultBlock(*told, {"encode": 1.0}, {}, 0, [], [])
    answered = messages.encode(
        [AnswerBlock.of(1, result), messages.Alive(2, "i", {}), EngineRefusal.of(3, EngineFailed("x"))]
    )
    return {
        "messages to the engine process": Parser(read_ask, byte_inputs([asked], rng), (BadMessage,)),
        "messages to HTTP processes": Parser(read_answer, byte_inputs([answered], rng), (BadMessage,)),
    }


def bundle_parsers(folder: Path, rng: random.Random) -> dict[str, Parser]:
    """The manifest and the arrays of a bundle."""
    bundle = make_bundle(folder, Sizes(num_items=50, dim=8, num_layers=1))
    manifest = orjson.loads((bundle / "manifest.json").read_bytes())

    def seal(body: Any) -> bytes:
        body = {name: value for name, value in body.items() if name != "checksum"}
        return manifest_module._canonical(body | {"checksum": manifest_module._sha256(body)})

    made = {"bundle manifests": Parser(Manifest.parse, json_inputs([manifest], rng, seal), (ValueError,))}
    for path in sorted(bundle.glob("*.safetensors")):
        data = path.read_bytes()
        types = {name: str(array.dtype) for name, array in safetensors.numpy.load(data).items()}

        def read(data: bytes, types: dict[str, str] = types) -> None:
            read_arrays(data, types, manifest["format_version"])

        made[f"bundle arrays: {path.name}"] = Parser(read, byte_inputs([data[:600], data], rng), (ValueError,))
    return made


def stored_parsers(rng: random.Random) -> dict[str, Parser]:
    """Values of the cache and of the streams, and the files that an operator writes."""
    key = vector_codec.cache_key("b" * 16, "p" * 16, History((1, 2, 3)))
    cached = vector_codec.encode(key, CachedVectors(np.ones((3, 8), np.float32), np.array([5, 6])))
    experiments = orjson.loads(DEFAULT_FILE.read_bytes())
    lines = [new_key(f"k{n}", [scope], 50 if n % 2 else None)[1].line for n, scope in enumerate(Scope)]

    def read_cached(data: bytes) -> None:
        vector_codec.decode(key, data)
        # one who knows the form and the key writes a checksum that fits
        start = vector_codec.HEADER.size + vector_codec.CHECKSUM_BYTES
        head, payload = data[: vector_codec.HEADER.size], data[start:]
        vector_codec.decode(key, head + vector_codec._checksum(key, head, payload) + payload)

    def read_keys(data: bytes) -> None:
        parse_keys(data.decode(errors="replace"), "keys")

    def read_experiments(data: bytes) -> None:
        # from memory, as an endpoint gives it: opening a file would take longer than all that is tried here
        read = Assigner.from_bytes(data, ARMS, "the experiment file", has_buckets=len(data) % 2 == 0)
        for user in ("u", None):
            read.assign(user, facts=VISITOR)

    change = {"type": "put", "id": 9, "attributes": {"a": 1}, "vectors": {"recgpt": [0.1]}, "expected_watches": 2.0}
    watched = {"type": "watched", "id": 9, "user": "u", "history": [1, "2"]}
    recorded = {"histories": [{"day": "2026-11-28", "items": [5, "clip-7", 2**53]}] * 2}
    return {
        "recorded histories": Parser(
            lambda data: parse_recorded(data, "golden.json"), json_inputs([recorded], rng), (ValueError,)
        ),
        "cached vectors": Parser(read_cached, byte_inputs([cached], rng), ()),
        **{f"stream events: {table.name}": event_parser(table, rng) for table in TABLES},
        "catalogue changes": Parser(
            changes.decode, json_inputs([change, watched], rng), (msgspec.MsgspecError, ValueError)
        ),
        "key files": Parser(
            read_keys, byte_inputs(["\n".join(lines).encode(), *map(str.encode, lines)], rng), (ConfigurationError,)
        ),
        "experiment files": Parser(read_experiments, json_inputs([experiments, *FEATURES], rng), (ConfigurationError,)),
    }


def parsers(folder: Path, rng: random.Random) -> dict[str, Parser]:
    """All of them by name. Needs a running event loop."""
    bodies = {
        f"bodies: {name}": Parser(read_body(name), json_inputs(seeds, rng), (BadRequest,))
        for name, seeds in BODIES.items()
    }
    # the one route that takes MessagePack; spoilt as values it holds what JSON cannot
    packed = json_inputs([*BODIES["BatchRequest"], {"requests": BODIES["RecallRequest"]}], rng, ormsgpack.packb)
    return {
        "id rules": Parser(read_ids, byte_inputs([b"17", b"-9223372036854775808", b"clip-7", b"007"], rng), ()),
        "Redis URLs": Parser(read_url, byte_inputs(URLS, rng), (ConfigurationError,)),
        "HTTP heads": Parser(Heads().read, byte_inputs(HEADS, rng), ()),
        **bodies,
        "packed bodies: BatchRequest": Parser(read_body("BatchRequest", codec.parse_packed), packed, (BadRequest,)),
        **message_parsers(rng),
        **bundle_parsers(folder, rng),
        **stored_parsers(rng),
    }
