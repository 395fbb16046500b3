"""A web process that listens at once and is ready three seconds later: until then /up answers 503."""

import http.server
import os
import time

READY_AT = time.monotonic() + 3


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if time.monotonic() >= READY_AT else 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        print(f"{self.path} {status}", flush=True)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
