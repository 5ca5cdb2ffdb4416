"""The bodies that clients send and get. Strict: a number is no string, true is not 1, unknown fields are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from model import ids
from model.rules import MAX_BOOSTS, MAX_CAPS
from service.engine.releases import CanaryTerms
from service.experiments.conditions import AttributeName, AttributeValue

# ids and names alike; the rule is the one that logs are read by
Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=ids.MAX_CHARACTERS, pattern=ids.PATTERN)]
Number = Annotated[int, Field(strict=True, ge=ids.MIN_INTEGER, le=ids.MAX_INTEGER)]
ItemId = Number | Text
UserId = Number | Text
FolderName = Annotated[str, StringConstraints(strict=True, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
FilterBody = dict[str, JsonValue]  # its rule is model/attributes/filters.py's
Share = Annotated[float, Field(ge=0, le=1)]
CANARY = CanaryTerms(0.0)  # the defaults of a trial exist there
MomentMs = Annotated[int, Field(strict=True, ge=0, le=ids.MAX_INTEGER)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=86_400_000)]

EXAMPLE: dict[str, JsonValue] = {"user_id": "u42", "history": [101, 2044, 77], "top_n": 5, "explain": True}
UNSHOWN: dict[str, JsonValue] = {"user_id": "u42", "history": [101, 2044, 77], "not_shown": True, "min_catalogue": 0}
FILTERED: dict[str, JsonValue] = {
    "history": [101, 2044, 77],
    "filter": {"duration_s": {"lt": 60}, "or": [{"language": "en"}, {"category": {"in": [3, 8]}}]},
    "caps": {"author": 2},
    "boost": [{"attribute": "uploaded", "half_life": 86_400_000, "now": 1_764_000_000_000, "weight": 0.2}],
    "diversity": 0.2,
}


class Body(BaseModel):
    """The base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BoostBody(Body):
    """A nudge for items that pass a filter, or for new ones: half of it is left after each `half_life`."""

    weight: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="Times the spread of the scores of this request's hits; 0 changes nothing."
    )
    filter: FilterBody | None = Field(None, description="Items that get all of it; not together with `attribute`.")
    attribute: Text | None = Field(None, description="An attribute of numbers, such as the time of upload.")
    half_life: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(None, description="In its units.")
    now: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="In the same units.")


class RecallRequest(Body):
    """A request of one user who opens the app."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE, FILTERED, UNSHOWN]})

    user_id: UserId | None = Field(
        None, description="Unit of the experiment; without one `defaultValue` answers, and nothing is counted."
    )
    session_id: UserId | None = Field(
        None, description="Of the session or device, also as X-Session-Id: the unit where the experiment says so."
    )
    attributes: dict[AttributeName, AttributeValue] = Field(
        default_factory=dict, max_length=32, description="What conditions of experiments may ask for: country, app .."
    )
    history: list[ItemId] | None = Field(
        None, description="Items watched, oldest first; unknown ids are dropped. Left out: what is kept for user_id."
    )
    top_n: Annotated[int, Field(strict=True, ge=1)] = Field(100, description="Length of the list.")
    exclude: list[ItemId] = Field(
        default_factory=list, description="Items that must not appear, beside those in the history."
    )
    explain: Annotated[bool, Field(strict=True)] = Field(
        False, description="Say for each item which step or interest found it, and why it is there."
    )
    filter: FilterBody | None = Field(
        None, description="Conditions on attributes of items: in, not_in, exists, gt, gte, lt, lte; and, or, not."
    )
    caps: dict[Text, Annotated[int, Field(strict=True, ge=1)]] = Field(
        default_factory=dict, max_length=MAX_CAPS, description="By attribute: how many items may share a value of it."
    )
    boost: list[BoostBody] = Field(default_factory=list, max_length=MAX_BOOSTS, description="Nudges, added up.")
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of novelty against relevance (maximal marginal relevance); 0 changes nothing."
    )
    outcome: Text | None = Field(
        None, description="What watching should end with: like, long_view .. (GET /arms); in place of the plan's."
    )
    not_shown: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Leave out what earlier answers with not_shown have listed for this user, and what is kept of the "
        "user's history; this answer counts as shown.",
    )
    min_catalogue: Annotated[int, Field(strict=True, ge=0, le=ids.MAX_INTEGER)] = Field(
        0, description="The change of the catalogue, as POST /items numbers it, that the answer has to know."
    )


class BatchRequest(Body):
    """Many users at once; answers keep the order."""

    # each is parsed later by itself: a bad member must not refuse the others
    requests: list[dict[str, Any]] = Field(min_length=1, description="RecallRequest; a bad one gets its own problem.")
    arm: Text | None = Field(None, description="Pins the arm for all; such answers are never exposures.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"requests": [EXAMPLE], "arm": "recgpt"}]})


class EmbedRequest(Body):
    """Query vectors without a search, for a team that searches elsewhere."""

    user_id: UserId | None = None
    history: list[ItemId] = Field(default_factory=list)
    arm: Text | None = Field(None, description="Default: the first arm served.")
    outcome: Text | None = Field(None, description="As in POST /recall.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": [101, 2044]}]})


class FeedbackRequest(Body):
    """An action of a user on an item."""

    user_id: UserId | None = Field(None, description="Who acted; a history is kept for users alone.")
    session_id: UserId | None = Field(None, description="As in POST /recall; without a user_id it is who acted.")
    item_id: ItemId
    action: Literal["play", "like", "follow", "share", "comment", "hide"]
    watch_time_ms: Milliseconds | None = None
    duration_ms: Milliseconds | None = None
    request_id: Text | None = Field(None, description="Of the answer that showed the item.")
    event_id: Text | None = Field(None, description="Makes retries safe; left out, it follows from the rest and ts_ms.")
    ts_ms: MomentMs | None = Field(None, description="When; default now.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "u42", "item_id": 101, "action": "play", "watch_time_ms": 9000}]},
    )


class FeedbackBatch(Body):
    """Many actions at once, in the order in which they happened; answers keep it."""

    # each is parsed later by itself: a bad event must not refuse the others
    events: list[dict[str, Any]] = Field(min_length=1, description="FeedbackRequest; a bad one gets its own problem.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"events": [{"user_id": "u42", "item_id": 101, "action": "like"}]}]},
    )


class ItemBody(Body):
    """An item that is there from now on; one of the same id is replaced."""

    id: ItemId
    attributes: dict[Text, JsonValue] | None = Field(
        None, description="By name, of the types that the bundle's have; left out: those of the bundle, if it knows it."
    )
    expected_watches: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="How often it will be watched in a time as long as the bundle's log; default: as usual."
    )
    vectors: dict[Text, list[float]] = Field(
        default_factory=dict, description="By arm: its vector in that arm's space. Left out: it is learnt."
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": 900_001, "attributes": {"author": 7_003, "language": "en"}}]},
    )


class ItemBatch(Body):
    """Many items that are there from now on, in their order."""

    # each is parsed later by itself: a bad item must not refuse the others
    items: list[dict[str, Any]] = Field(min_length=1, description="ItemBody; a bad one gets its own problem.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [{"id": 900_001}, {"id": 900_002}]}]})


class CanaryBody(Body):
    """The terms of a trial: a bundle that leaves one of its bounds is rolled back by itself."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(description="Of the users, who stay with it.")
    seconds: Annotated[float, Field(ge=1, le=1_000_000)] = Field(CANARY.seconds, description="Then it is in force.")
    max_errors: Share = Field(CANARY.max_errors, description="Share of failed answers beyond the other bundle's.")
    max_slowdown: Annotated[float, Field(ge=1, le=1000)] = Field(
        CANARY.max_slowdown, description="Times the latency of the other bundle."
    )
    min_overlap: Share = Field(CANARY.min_overlap, description="Share of items that the lists of both have in common.")


class ReloadBody(Body):
    """The wish for another bundle of an arm. Without `bundle` and `rollback`: what lies in the arm's own folder now."""

    arm: Text
    bundle: FolderName | None = Field(None, description="Name of a folder beside the arm's own, in which it lies.")
    rollback: Annotated[bool, Field(strict=True)] = Field(
        False, description="End the trial, or take the bundle that was served before; not together with `bundle`."
    )
    canary: CanaryBody | None = Field(None, description="The bundle is on trial first, beside the one in force.")
    promote: Annotated[bool, Field(strict=True)] = Field(False, description="The canary is in force now; by itself.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"arm": "recgpt"}]})


class Experiment(Body):
    """The decision of the experiment: `assigned` is analysed, `served` answered; they differ in a fallback."""

    key: str | None
    assigned: str
    served: str
    reason: str


class ReasonsBody(Body):
    """The reasons as columns, in the order of the items; an item that filled the list up has no history items."""

    similar: list[list[int | str]] = Field(description="Up to three items of the history that it is most like.")
    shares: list[list[float]] = Field(description="Their shares of its likeness to all of the history.")
    ranks: list[list[int | None]] = Field(description="Its place among each step's hits, from 1; null = not there.")
    popularity: list[int | None] = Field(
        description="Its tenth of the bundle's items by popularity, 1 = the most popular; null = came after the bundle."
    )


class NearestBody(Body):
    """The nearest items of soft prompts, in the order of `prompts`; a prompt that is one item has none."""

    items: list[list[int | str]] = Field(description="Up to three, the nearest first; it is the prompt that is told.")
    weights: list[list[float]] = Field(description="Their weights in the mean of all items that the prompt is.")


class RecallResponse(Body):
    """The list as columns, not objects: the n-th id, score and source belong together."""

    request_id: str
    bundle: str = Field(description="Digest of the release that answered; of an interleaved list both, with + between.")
    arm: str = Field(description="The arm that answered; `interleaved` for a list of two arms.")
    experiment: Experiment
    items: list[int | str]
    scores: list[float]
    sources: list[str] | None = Field(None, description="With explain: step1, interest3, like, popular, fresh ..")
    prompts: list[int | str] | None = Field(None, description="With explain: items the model generated on the way.")
    nearest: NearestBody | None = Field(None, description="With explain, of soft prompts: what they are made of.")
    reasons: ReasonsBody | None = Field(None, description="With explain: why each item is there, as columns.")
    catalogue: int = Field(description="The last change of the catalogue that this list knows; 0 = the bundle alone.")
    cache: Literal["hit", "miss", "off"]
    degraded: list[str] = Field(description="Why this answer is less than it could be; empty = all well.")
    timings_ms: dict[str, float]


class Problem(Body):
    """The one shape of every error."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


class BatchResponse(Body):
    """The answers of a batch: an entry for each request, in order."""

    responses: list[RecallResponse | Problem]


class EmbedResponse(Body):
    """The query vectors of one user."""

    bundle: str
    arm: str
    vectors: list[list[float]]
    prompts: list[int | str]


class FeedbackResponse(Body):
    """The acknowledgement of an event that is kept."""

    event_id: str
    duplicate: bool = Field(description="True: the same event_id was kept before.")


class FeedbackBatchResponse(Body):
    """The answers of a batch of events: an entry for each, in order."""

    responses: list[FeedbackResponse | Problem]


class ChangeResponse(Body):
    """The acknowledgement of a change of the catalogue that is kept."""

    catalogue: int = Field(description="Its number; a request with this `min_catalogue` sees it.")


class ChangesResponse(Body):
    """The acknowledgements of a batch of items: an entry for each, in order."""

    responses: list[ChangeResponse | Problem]
