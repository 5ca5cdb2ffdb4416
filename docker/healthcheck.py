"""The container's health check: exit status 0 when GET /health answers 200. The image has no curl."""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 2.5


def main() -> None:
    connection = HTTPConnection("127.0.0.1", int(os.environ.get("RECALL_PORT", "8080")), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        reply = connection.getresponse()
    except (OSError, HTTPException) as error:
        sys.exit(f"no answer: {error!r}")
    if reply.status != 200:
        sys.exit(f"{reply.status}: {reply.read(500).decode(errors='replace')}")


if __name__ == "__main__":
    main()
