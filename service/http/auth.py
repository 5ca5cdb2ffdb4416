"""The QA key: the one right that a client can have, to force a variation of the experiment."""

import hmac

from fastapi import Request
from pydantic import SecretStr

from service.errors import Forbidden, Unauthorized


def forced_bucket(request: Request, qa_key: SecretStr | None) -> str | None:
    """The header X-AB-Bucket, for clients that hold the QA key; None without the header.

    Raises Unauthorized when no key is given, Forbidden when it is a wrong one, or when the service has none.
    """
    bucket = request.headers.get("x-ab-bucket")
    if bucket is None:
        return None
    given = request.headers.get("x-qa-key")
    if given is None:
        raise Unauthorized("X-AB-Bucket needs X-QA-Key")
    # compared in constant time
    if qa_key is None or not hmac.compare_digest(given.encode(), qa_key.get_secret_value().encode()):
        raise Forbidden("X-QA-Key does not allow X-AB-Bucket")
    return bucket
