#!/usr/bin/env python3
"""A browser as far as the node's pages go: it keeps cookies, follows redirects and fills in forms.

browser.py URL          what `heroku login` opens: logs in, prints what is being let in, and says yes
browser.py 2fa-on FILE  turns the second factor on and puts the recovery codes in FILE
browser.py 2fa-off      turns it off; the code is the first argument after it

Of the account EMAIL with PASSWORD at HEROKU_HOST.
"""

import base64
import hmac
import html
import http.cookiejar
import os
import re
import struct
import sys
import time
import urllib.parse
import urllib.request

NODE = os.environ["HEROKU_HOST"]
OPENER = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def load(url, **form):
    """The page at the end of all redirects, and where that is."""
    data = urllib.parse.urlencode(form).encode() if form else None
    request = urllib.request.Request(urllib.parse.urljoin(NODE, url), data, {"Origin": NODE} if form else {})
    with OPENER.open(request, timeout=60) as answer:
        return answer.read().decode(), answer.url


def field(page, name):
    return html.unescape(re.search(f'name="{name}" value="([^"]*)"', page).group(1))


def log_in(url, code=None):
    page, _ = load(url)
    page, at = load("/web/login", email=os.environ["EMAIL"], password=os.environ["PASSWORD"], next=field(page, "next"))
    if at.startswith(f"{NODE}/web/login/code"):
        page, _ = load("/web/login/code", code=code, next=field(page, "next"))
    return page


def let_in(url):
    page = log_in(url)
    for text in re.findall("<dd>(.*?)</dd>", page)[:2]:
        print("browser:", html.unescape(text))
    page, _ = load(url, csrf=field(page, "csrf"), answer="yes")
    print("browser:", re.search('<p class="done">(.*?)</p>', page).group(1), flush=True)


def code_of(secret):
    """RFC 6238 with the values that phones use."""
    counter = struct.pack(">Q", int(time.time()) // 30)
    digest = hmac.new(base64.b32decode(secret), counter, "sha1").digest()
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at:at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def two_factor_on(file):
    page = log_in("/web/two-factor")
    page, _ = load("/web/two-factor", csrf=field(page, "csrf"), password=os.environ["PASSWORD"])
    code = code_of(re.search("<code>([A-Z2-7]+)</code>", page).group(1))
    page, _ = load("/web/two-factor/enable", csrf=field(page, "csrf"), code=code)
    codes = re.search("<pre>(.*?)</pre>", page, re.S).group(1)
    with open(file, "w") as out:
        out.write(codes + "\n")
    print(len(codes.split()), "recovery codes")


def two_factor_off(code):
    page = log_in("/web/two-factor", code)
    page, _ = load("/web/two-factor/disable", csrf=field(page, "csrf"), password=os.environ["PASSWORD"])
    print(re.search('<p class="done">(.*?)</p>', page).group(1))


match sys.argv[1:]:
    case ["2fa-on", file]:
        two_factor_on(file)
    case ["2fa-off", code]:
        two_factor_off(code)
    case [url]:
        let_in(url)
