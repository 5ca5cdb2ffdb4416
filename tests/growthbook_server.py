"""A small GrowthBook server: gives its payload with an ETag, over real HTTP."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARMS = ("comirec", "recgpt")
PATH = "/api/features/sdk-secret"


def payload(**changes):
    rule = {"key": "exp", "hashAttribute": "user_id", "hashVersion": 2, "bucketVersion": 1, "variations": [*ARMS]}
    feature = {"defaultValue": "comirec", "rules": [rule | changes]}
    return json.dumps({"status": 200, "features": {"recall_arm": feature}, "dateUpdated": "2026-11-28"}).encode()


class GrowthBookServer(ThreadingHTTPServer):
    """A server that gives what `body` holds, with an ETag, or the status that is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.status, self.num_sent = payload(), 200, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}{PATH}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        etag = f'"{hash(self.server.body)}"'
        is_known = self.headers.get("If-None-Match") == etag
        status = 404 if self.path != PATH else 304 if is_known and self.server.status == 200 else self.server.status
        self.send_response(status)
        self.send_header("ETag", etag)
        self.end_headers()
        if status == 200:
            self.server.num_sent += 1
            self.wfile.write(self.server.body)

    def log_message(self, *_):
        """Says nothing."""


@contextmanager
def running():
    with GrowthBookServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
