"""The one place where settings and their defaults exist.

Each is an environment variable RECALL_<NAME> and an option of `recall serve`.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.positive import PositiveRule
from service.errors import ConfigurationError

KEPT_EXPERIMENTS, PAUSED_EXPERIMENTS = "experiments.json", "paused.json"  # in the state folder
# a setting -> the one that it is of
PARTS = {"shadow_share": "shadow_arm", "traces_share": "traces_url", "tls_client_ca": "tls_cert"}
PARTS |= dict.fromkeys(("golden_days", "golden_floor"), "golden_share")


class Settings(BaseSettings):
    """Units stand in the names; unknown options are errors."""

    # frozen: what was printed at start stays true
    model_config = SettingsConfigDict(env_prefix="RECALL_", frozen=True, extra="forbid")

    arms: dict[str, Path] = Field(
        default_factory=dict,
        description="Arm name to bundle folder, as JSON; RECALL_ARM takes NAME=BUNDLE NAME=BUNDLE.",
    )
    experiments: Path | None = Field(
        None, description="GrowthBook features JSON; without one recgpt runs 50/50 against comirec."
    )
    experiments_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="Endpoint of a GrowthBook server in place of a file, https://HOST/api/features/CLIENT_KEY; the "
        "last payload in force is kept in the state folder, for a start without the server.",
    )
    watch_experiments_s: float = Field(
        2, ge=0, description="Look this often whether file or endpoint changed, in every process; 0 = never."
    )
    sticky_days: float = Field(
        0,
        ge=0,
        description="Keep which variation a user got first, until so long after the last request: then coverage may "
        "fall, and a phase change, without moving anybody; 0 = the hash alone. Costs a read of Redis a request.",
    )
    bundle_wait_s: float = Field(
        0, ge=0, description="Wait this long for bundles that are still being built; 0 = refuse at once."
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 opens the port to the network.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 = any free one, printed at start.")
    http_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="HTTP processes before one engine process; 0 = one process for all, best on up to 2 cores.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file of the certificate and its chain, to speak HTTPS with; read again when it changes.",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities: callers need a certificate that one of them gave; unset = none."
    )
    max_body_bytes: int = Field(
        64 * 1024, ge=1024, description="Larger single requests get 413 before they are parsed."
    )
    max_batch_body_bytes: int = Field(1024 * 1024, ge=1024, description="The same for batches.")
    max_batch_requests: int = Field(256, ge=1, description="Requests, events or items in one batch; more is 422.")
    max_history: int = Field(
        1000, ge=1, description="Ids in a request's history or exclude list; also what Redis keeps a user."
    )
    max_top_n: int = Field(1000, ge=1, description="Longest list a request may ask for; longer searches cost more.")
    string_ids: bool = Field(
        False, description="Answer integer ids as strings: JavaScript's numbers lose digits above 2^53."
    )
    qa_key: SecretStr | None = Field(None, description="Key that lets X-AB-Bucket force an arm; unset = nobody can.")
    admin_key: SecretStr | None = Field(
        None,
        description="Key, sent as X-Admin-Key, that lets POST /admin/reload change bundles, and POST and DELETE /items "
        "the items; unset = nobody can.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys by their hashes, a line each (`recall keys new`), read again when it changes; "
        "with it every route needs a key with its scope.",
    )
    api_keys: SecretStr | None = Field(
        None, description="The same lines with semicolons between them; RECALL_API_KEYS_FILE changes without a restart."
    )
    trust_key: Path | None = Field(
        None,
        description="PEM file of public ed25519 keys: only bundles that one of them signed (`recall build --sign-key`) "
        "are served; unset = any.",
    )
    watch_bundles_s: float = Field(
        0, ge=0, description="Look this often whether an arm's folder or link holds another bundle; 0 = never."
    )

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU when there is one.")
    max_batch_tokens: int | None = Field(
        None,
        ge=64,
        description="History items computed at once; more = throughput, fewer = shorter waits; unset = 4096, more on "
        "a GPU.",
    )
    max_waiting: int = Field(
        2048, ge=1, description="Most requests in an arm's queue; the limit that follows their wait is far below it."
    )
    target_wait_ms: float = Field(
        25,
        gt=0,
        description="Mean wait for their turn above which requests get 429; higher = more throughput, longer waits.",
    )
    engine_stall_ms: float = Field(
        1250, ge=100, description="A batch that computes longer hangs: its thread is replaced; above the slowest batch."
    )
    fresh_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of each list for items put after the bundle, where fewer get in by score; 0 = score alone.",
    )
    max_puts_per_s: float = Field(
        100, gt=0, description="Items that a process lets into the catalogue's log; a burst waits, 4 s of it get 429."
    )
    request_timeout_ms: float = Field(1000, gt=0, description="Deadline when the client sends no X-Request-Timeout-Ms.")
    drain_s: float = Field(
        1, ge=0, le=60, description="After SIGTERM /ready is 503 for so long before the port closes; Ctrl-C: at once."
    )

    redis_url: str | None = Field(
        None,
        description="Redis for the vector cache: redis://, rediss:// (TLS), unix://, redis+sentinel:// or "
        "redis+cluster://; unset = an embedded redis-server; 'memory' = none.",
    )
    events_redis_url: str | None = Field(
        None, description="Redis for histories and streams (noeviction, AOF); unset = redis_url."
    )
    feedback_days: float = Field(
        7, gt=0, description="Feedback on what happened longer ago is refused, as is what lies in the future."
    )
    positive: str | None = Field(
        None,
        description="Feedback whose item enters the user's history, in the words of `recall prepare --positive` with "
        "commas: watch:0.5,like; all = every action; unset = by the rule that each bundle's training had.",
    )
    shown_days: float = Field(
        30,
        ge=0,
        description="What a user was shown is forgotten so long after the last list with not_shown; 0 = never.",
    )
    state_dir: Path = Field(
        Path(".recall"), description="Where the embedded redis-server and the spool of events keep their files."
    )
    cache_ttl_s: int = Field(
        3600, ge=0, description="Life of vectors cached in Redis; 0 = no cache. In memory the oldest go first."
    )
    memory_cache_mb: int = Field(
        128, ge=0, description="Vectors kept in this process before Redis is asked, oldest out first; 0 = Redis alone."
    )
    redis_timeout_ms: float = Field(
        20,
        gt=0,
        description="Longest wait for one read of vectors or a history; a slow Redis is a miss, a busy loop hardly.",
    )
    events_timeout_ms: float = Field(500, gt=0, description="Longest wait until an event is kept; then 503.")

    exposure_sample: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of answers whose whole list is recorded, to judge others by later; 0 = none.",
    )
    shadow_arm: str | None = Field(
        None, description="Arm that computes a share of the requests too, after their answers; its lists are recorded."
    )
    shadow_share: float = Field(
        0.01, gt=0, le=1, description="Share of the answers that --shadow-arm computes too, at that cost."
    )
    golden_share: float = Field(0, ge=0, le=1, description="Share of requests whose history is kept to try bundles on.")
    golden_days: int = Field(7, ge=1, description="After so many days such a history is forgotten.")
    golden_floor: float = Field(
        0,
        ge=0,
        le=1,
        description="A bundle whose lists for them overlap less with those in force is refused; 0 = none.",
    )
    stream_mb: int = Field(
        32, ge=1, description="Bytes that each stream of exposures keeps in Redis; beyond it the oldest events go."
    )
    spool_mb: int = Field(
        256, ge=0, description="Exposures kept on disk while Redis is away, of each process; 0 = in memory alone."
    )

    event_log_gb: float = Field(
        1,
        ge=0,
        description="Size of the Parquet log to which a process beside the service brings the embedded Redis's events, "
        "in the state folder, oldest out first; 0 = none.",
    )

    traces_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="Collector of OpenTelemetry traces, http://HOST:4318/v1/traces (OTLP); needs the extra otel.",
    )
    traces_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the requests that are traced, of those without a traceparent; the others as it says.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="info = a line a request.")

    @model_validator(mode="after")
    def _arms_have_names(self) -> Self:
        bad = [name for name in self.arms if not name.isidentifier() or name in {"batch", "fallback", "interleaved"}]
        if bad:
            raise ValueError(f"arm names are words such as recgpt, not {', '.join(map(repr, bad))}")
        return self

    @model_validator(mode="after")
    def _keys_are_of_one_kind(self) -> Self:
        if self.api_keys is not None and self.api_keys_file is not None:
            raise ValueError("API keys are in api_keys or in api_keys_file, not in both")
        others = [name for name in ("qa_key", "admin_key") if getattr(self, name) is not None]
        if others and (self.api_keys is not None or self.api_keys_file is not None):
            raise ValueError(f"{others[0]} has no meaning beside API keys: give one of them the scope {others[0][:-4]}")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are given together")
        return self

    @model_validator(mode="after")
    def _experiments_have_one_source(self) -> Self:
        if self.experiments is not None and self.experiments_url is not None:
            raise ValueError("the experiments are in a file or at an endpoint (experiments_url), not in both")
        return self

    @model_validator(mode="after")
    def _shadow_arm_is_served(self) -> Self:
        if self.shadow_arm is not None and self.shadow_arm not in self.arms:
            raise ValueError(f"shadow_arm: no arm is called {self.shadow_arm!r}; there are {', '.join(self.arms)}")
        return self

    @model_validator(mode="after")
    def _parts_have_a_whole(self) -> Self:
        for name, whole in PARTS.items():
            if not getattr(self, whole) and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning without {whole}")
        return self

    @property
    def kept_experiments(self) -> Path:
        """The last payload of the endpoint that came into force."""
        return self.state_dir / KEPT_EXPERIMENTS

    @model_validator(mode="after")
    def _positive_is_a_rule(self) -> Self:
        _ = self.history_rule
        return self

    @property
    def history_rule(self) -> PositiveRule | None:
        """The rule of `positive`; None = that of the bundles."""
        if self.positive is None:
            return None
        return PositiveRule() if self.positive == "all" else PositiveRule.parse(self.positive.split(","))

    @property
    def uses_memory(self) -> bool:
        """True when vectors are kept in this process alone."""
        return self.redis_url == "memory"

    @property
    def keeps_events_in_memory(self) -> bool:
        """True when histories and events are lost with this process: tests and trials."""
        return self.uses_memory and self.events_redis_url is None


def load_settings(**given: object) -> Settings:
    """Settings from options, then the environment, then defaults.

    Raises ConfigurationError with one sentence that names the first wrong setting.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigurationError(f"setting {where}: {first['msg']}") from error
