"""terminal [--size ROWSxCOLUMNS] [PROMPT ANSWER]... -- COMMAND...

Runs COMMAND on a terminal of its own. Waits for each PROMPT to appear, then types
ANSWER and Enter. Prints all that the terminal showed; exits as the command did.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

LIMIT_SECONDS = 120
# Some prompts read whole lines, and never leave that mode.
RAW_LIMIT_SECONDS = 1


def wait_until_read(terminal):
    """A prompt is shown before its program reads in raw mode."""
    deadline = time.monotonic() + RAW_LIMIT_SECONDS
    while time.monotonic() < deadline and termios.tcgetattr(terminal)[3] & termios.ICANON:
        time.sleep(0.02)
    time.sleep(0.1)


def main():
    arguments = sys.argv[1:]
    rows, columns = 24, 100
    if arguments[0] == "--size":
        rows, columns = map(int, arguments[1].split("x"))
        arguments = arguments[2:]
    split = arguments.index("--")
    answers = list(zip(arguments[0:split:2], arguments[1:split:2]))
    command = arguments[split + 1:]
    pid, terminal = pty.fork()
    size = struct.pack("HHHH", rows, columns, 0, 0)
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.execvp(command[0], command)
    shown = b""
    looked = 0
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        if answers:
            found = shown.find(answers[0][0].encode(), looked)
            if found >= 0:
                looked = len(shown)
                wait_until_read(terminal)
                os.write(terminal, answers.pop(0)[1].encode() + b"\r")
        readable, _, _ = select.select([terminal], [], [], 0.1)
        if not readable:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    sys.stdout.buffer.write(shown)
    sys.stdout.flush()
    if time.monotonic() >= deadline:
        os.kill(pid, 9)
        sys.exit(f"no end within {LIMIT_SECONDS} s")
    _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
