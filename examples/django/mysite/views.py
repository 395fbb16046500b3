import itertools
import logging
import os

from django.shortcuts import render

logger = logging.getLogger(__name__)

# Of this process: gunicorn has several, and a restart begins anew.
visits = itertools.count(1)


def index(request):
    number = next(visits)
    logger.info("visit %d from %s", number, request.headers.get("X-Forwarded-For", request.META.get("REMOTE_ADDR")))
    context = {
        "greeting": os.environ.get("GREETING", "Hello from Django"),
        "release": os.environ.get("HEROKU_RELEASE_VERSION", "unknown"),
        "dyno": os.environ.get("DYNO", "local"),
    }
    return render(request, "index.html", context)
