"""A web process that listens at once and is not ready at first: to the first three requests for /up it answers 503."""

import http.server
import itertools
import os

asked = itertools.count(1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 503 if self.path == "/up" and next(asked) <= 3 else 200
        # Said before it is answered: nobody can hear of the answer earlier than the log does.
        print(f"{self.path} {status}", flush=True)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
