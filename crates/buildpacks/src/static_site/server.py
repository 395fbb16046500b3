"""Serves an app's files by its static.json. Usage: server.py, in the app's folder, with PORT set.

Made by the buildpack heroku/static. Needs nothing but Python's own library. Nothing outside of the root folder is served,
links that lead out of it included.
"""

import json
import mimetypes
import os
import re
import shutil
import signal
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Seconds that a connection may be silent: the router opens another one when it needs it.
IDLE_TIMEOUT_S = 60

RELEASE = os.environ.get("HEROKU_RELEASE_VERSION", "v0")

mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("text/javascript", ".mjs")
mimetypes.add_type("application/wasm", ".wasm")
mimetypes.add_type("image/webp", ".webp")
mimetypes.add_type("font/woff2", ".woff2")


def pattern(glob):
    """`*` is anything but a slash, `**` is anything."""
    parts = re.split(r"(\*\*|\*)", glob)
    words = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + r"\Z")


def with_variables(text):
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), text)


class Site:
    def __init__(self, settings):
        self.root = os.path.realpath(settings.get("root", "public_html"))
        self.clean_urls = settings.get("clean_urls", False)
        self.https_only = settings.get("https_only", False)
        self.error_page = settings.get("error_page", "404.html")
        self.routes = [(pattern(glob), file) for glob, file in settings.get("routes", {}).items()]
        # The longest first: the most particular one wins.
        self.routes.sort(key=lambda route: -len(route[0].pattern))
        self.headers = [(pattern(glob), named) for glob, named in settings.get("headers", {}).items()]
        self.redirects = settings.get("redirects", {})

    def file(self, name):
        """The path of a file of the site, or None."""
        path = os.path.realpath(os.path.join(self.root, name.lstrip("/")))
        inside = path.startswith(self.root + os.sep)
        return path if inside and os.path.isfile(path) else None

    def find(self, path):
        """The file for a path, or where to go instead: (file, location)."""
        if path.endswith("/"):
            found = self.file(path + "index.html")
        else:
            found = (self.file(path + ".html") if self.clean_urls else None) or self.file(path)
        if found:
            return found, None
        if not path.endswith("/") and self.file(path + "/index.html"):
            return None, path + "/"
        for glob, name in self.routes:
            if glob.match(path) and self.file(name):
                return self.file(name), None
        return None, None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "static"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    site = None

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        site = self.site
        raw, _, query = self.path.partition("?")
        # "//host" would be another server in a Location header.
        path = "/" + urllib.parse.unquote(raw, errors="replace").lstrip("/")
        if site.https_only and self.headers.get("X-Forwarded-Proto") != "https":
            target = "/" + raw.lstrip("/") + ("?" + query if query else "")
            return self.redirect(301, "https://" + self.headers.get("Host", "") + target)
        if path in site.redirects:
            to = site.redirects[path]
            return self.redirect(to.get("status", 301), with_variables(to["url"]))
        if "\0" in path:
            return self.not_found(path)
        found, location = site.find(path)
        if location:
            return self.redirect(301, urllib.parse.quote(location) + ("?" + query if query else ""))
        if found:
            return self.send(200, found, path)
        return self.not_found(path)

    def not_found(self, path):
        page = self.site.file(self.site.error_page)
        if page:
            return self.send(404, page, path)
        self.text(404, "Not Found\n")

    def redirect(self, status, location):
        self.text(status, "", [("Location", re.sub(r"[\r\n]", "", location))])

    def text(self, status, text, headers=()):
        body = text.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send(self, status, name, path):
        with open(name, "rb") as file:
            facts = os.fstat(file.fileno())
            # Archives may give all files one date: only with the release it is another file for sure.
            etag = '"%s-%x-%x"' % (RELEASE, facts.st_mtime_ns, facts.st_size)
            if status == 200 and self.is_known(etag):
                self.send_response(304)
                self.send_file_headers(etag, path)
                return self.end_headers()
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            if kind.startswith("text/") or kind in ("application/json", "image/svg+xml"):
                kind += "; charset=utf-8"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(facts.st_size))
            self.send_file_headers(etag, path)
            self.end_headers()
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile, 256 * 1024)

    def is_known(self, etag):
        named = self.headers.get("If-None-Match", "")
        return named.strip() == "*" or etag in [one.strip().removeprefix("W/") for one in named.split(",")]

    def send_file_headers(self, etag, path):
        self.send_header("ETag", etag)
        for glob, named in self.site.headers:
            if glob.match(path):
                for name, value in named.items():
                    self.send_header(name, value)

    def log_message(self, *_):
        """The router logs requests."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print("static:", repr(error), file=sys.stderr, flush=True)


def main():
    with open("static.json", encoding="utf-8-sig") as file:
        Handler.site = Site(json.load(file))
    server = Server(("", int(os.environ["PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("static: serving", Handler.site.root, "on port", server.server_port, flush=True)
    server.serve_forever()


main()
