"""Keys: the QA key forces a variation of the experiment, the admin key changes what is served, bundles and items."""

import hmac

from fastapi import Request
from pydantic import SecretStr

from service.errors import BadRequest, Forbidden, Unauthorized


def forced_bucket(request: Request, qa_key: SecretStr | None, pinned: str | None = None) -> str | None:
    """The header X-AB-Bucket, for clients that hold the QA key; None without the header.

    pinned: the arm that the request names itself, which leaves nothing to force. Raises BadRequest for both together,
    Unauthorized when no key is given, Forbidden when it is a wrong one, or when the service has none.
    """
    bucket = request.headers.get("x-ab-bucket")
    if bucket is None:
        return None
    _check_key(request, "X-QA-Key", qa_key, "X-AB-Bucket")
    if pinned is not None:
        raise BadRequest("X-AB-Bucket: the request names its arm itself; leave one of the two out")
    return bucket


def check_admin(request: Request, admin_key: SecretStr | None) -> None:
    """Returns for clients that hold the admin key.

    Raises Unauthorized when no key is given, Forbidden when it is a wrong one, or when the service has none.
    """
    _check_key(request, "X-Admin-Key", admin_key, request.url.path)


def _check_key(request: Request, header: str, key: SecretStr | None, right: str) -> None:
    given = request.headers.get(header)
    if key is None:  # said before the caller looks for a key that there is not
        raise Forbidden(f"this service has no --{header.removeprefix('X-').lower()}, so nobody may use {right}")
    if given is None:
        raise Unauthorized(f"{right} needs {header}")
    # compared in constant time
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        raise Forbidden(f"{header} does not allow {right}")
