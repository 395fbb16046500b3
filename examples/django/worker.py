"""Prints a numbered line every second, for the `worker` process type."""

import itertools
import os
import time

PAUSE_SECONDS = float(os.environ.get("WORKER_PAUSE_SECONDS", "1"))

for number in itertools.count(1):
    print(f"worker line {number}", flush=True)
    time.sleep(PAUSE_SECONDS)
