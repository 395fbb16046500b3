"""soon [PATTERN]... -- LINE

Runs the shell command LINE again and again until each PATTERN (a regular expression) is found in what it prints, for
at most two minutes. Prints what the last run printed; exits as that did.
"""

import re
import subprocess
import sys
import time

LIMIT_SECONDS = 120
PAUSE_SECONDS = 0.2


def main():
    split = sys.argv.index("--")
    patterns = [re.compile(pattern, re.MULTILINE) for pattern in sys.argv[1:split]]
    (line,) = sys.argv[split + 1:]
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        run = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = run.stdout.decode(errors="replace")
        if all(pattern.search(text) for pattern in patterns) or time.monotonic() > deadline:
            break
        time.sleep(PAUSE_SECONDS)
    sys.stdout.write(text)
    sys.stdout.flush()
    sys.exit(run.returncode)


main()
