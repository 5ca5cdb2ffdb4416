"""A service that is measured: gone with whoever measures it, however that ends."""

import signal
import subprocess
import sys

import psutil

from tests.waiting import wait_for

# starts a stand-in for the service, which is ready at once, and tells its process id
MEASURING = """
import sys, time
from recall.bench.target import Checkout, serving
with serving({}, checkout=Checkout([sys.executable, "-c", sys.argv[1]])) as target:
    print(target.pid, flush=True)
    time.sleep(600)
"""
READY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Ready).serve_forever()
"""


def test_a_service_ends_with_whoever_measures_it():
    with subprocess.Popen([sys.executable, "-c", MEASURING, READY], stdout=subprocess.PIPE) as measuring:
        pid = int(measuring.stdout.readline())
        assert psutil.pid_exists(pid)
        measuring.send_signal(signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid))
