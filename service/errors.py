"""Every failure the service may report, in one tree, with its HTTP status in one table.

    RecallError                 code                retryable  status
    ├── BadRequest              bad_request         no         422
    │   ├── MalformedBody       malformed_body      no         400
    │   ├── MalformedHttp       malformed_http      no         400
    │   ├── BodyTooLarge        body_too_large      no         413
    │   ├── RequestTooSlow      request_too_slow    no         408
    │   ├── UnsupportedEncoding unsupported_encoding no        415
    │   ├── HeadTooLarge        head_too_large      no         431
    │   ├── BadStatistics       bad_statistics      no         422
    │   ├── UnknownArm          unknown_arm         no         404
    │   ├── UnknownItem         unknown_item        no         404
    │   ├── NoEventLog          no_event_log        no         404
    │   └── ReloadRefused       reload_refused      no         422
    ├── Forbidden               forbidden           no         403
    │   └── Unauthorized        unauthorized        no         401
    ├── ReloadUnderWay          reload_under_way    yes        409
    ├── CatalogueFull           catalogue_full      no         409
    ├── Overloaded              overloaded          yes        429
    ├── DeadlineExceeded        deadline_exceeded   yes        504
    ├── Unavailable             unavailable         yes        503
    │   ├── EngineFailed        engine_failed       yes        503
    │   ├── StaleRelease        stale_release       yes        503
    │   ├── EventsUnavailable   events_unavailable  yes        503
    │   ├── EventsRefused       events_refused      no         503
    │   └── CatalogueBehind     catalogue_behind    yes        503
    └── ConfigurationError      configuration       no         500   (the service does not start)

Knows nothing of HTTP frameworks: service/http/app.py turns the tree into answers.
"""

from typing import ClassVar


class RecallError(Exception):
    """One clear sentence for the caller in `args[0]`."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500


class BadRequest(RecallError):
    """The request can never succeed as it stands."""

    code, status = "bad_request", 422


class MalformedBody(BadRequest):
    """The body is not JSON."""

    code, status = "malformed_body", 400


class BodyTooLarge(BadRequest):
    """More bytes than the service reads."""

    code, status = "body_too_large", 413


class MalformedHttp(BadRequest):
    """The bytes sent are no HTTP request."""

    code, status = "malformed_http", 400


class RequestTooSlow(BadRequest):
    """The request did not come to its end in time; the connection is closed."""

    code, status = "request_too_slow", 408


class UnsupportedEncoding(BadRequest):
    """The body is compressed; the service reads plain bodies."""

    code, status = "unsupported_encoding", 415


class HeadTooLarge(BadRequest):
    """The headers are more, or larger, than any client needs; the connection is closed."""

    code, status = "head_too_large", 431


class BadStatistics(BadRequest):
    """The sums or counts of an experiment contradict each other; the sentence says which."""

    code = "bad_statistics"


class UnknownArm(BadRequest):
    """No bundle is served under that name."""

    code, status = "unknown_arm", 404


class UnknownItem(BadRequest):
    """No arm lists this item."""

    code, status = "unknown_item", 404


class NoEventLog(BadRequest):
    """The service has no event log where it runs; the sentence says how a report is made without it."""

    code, status = "no_event_log", 404


class ReloadRefused(BadRequest):
    """The bundle offered cannot be served; the sentence says why, and the one served before still is."""

    code = "reload_refused"


class Forbidden(RecallError):
    """The key given does not allow this."""

    code, status = "forbidden", 403


class Unauthorized(Forbidden):
    """A key is needed and none was given."""

    code, status = "unauthorized", 401


class ReloadUnderWay(RecallError):
    """Another bundle is being loaded; one at a time."""

    code, retryable, status = "reload_under_way", True, 409


class CatalogueFull(RecallError):
    """No more items can be put until a bundle with them is served."""

    code, status = "catalogue_full", 409


class Overloaded(RecallError):
    """More requests come than are answered in time; nothing was computed."""

    code, retryable, status = "overloaded", True, 429


class DeadlineExceeded(RecallError):
    """The caller's time ran out before an answer was ready."""

    code, retryable, status = "deadline_exceeded", True, 504


class Unavailable(RecallError):
    """The service cannot answer now."""

    code, retryable, status = "unavailable", True, 503


class EngineFailed(Unavailable):
    """The batch this request was part of failed; every member is told."""

    code = "engine_failed"


class StaleRelease(Unavailable):
    """A bundle took the place of another while this request was on its way; nothing was computed."""

    code = "stale_release"


class EventsUnavailable(Unavailable):
    """The event could not be kept; send it again."""

    code = "events_unavailable"


class EventsRefused(Unavailable):
    """Redis refuses to keep events until it is set up otherwise; sending again does not help."""

    code, retryable = "events_refused", False


class CatalogueBehind(Unavailable):
    """The change of the catalogue that a request demands to see has not arrived here in time."""

    code = "catalogue_behind"


class ConfigurationError(RecallError):
    """A setting, bundle or experiment file is unusable; the sentence says which and what to do."""

    code = "configuration"
