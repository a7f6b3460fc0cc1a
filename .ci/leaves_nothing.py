"""Runs a command and fails if the command leaves a process: `leaves_nothing.py COMMAND [ARGUMENT ...]`.

This process becomes a child subreaper, so the kernel re-parents every daemon below the command to this process. After
the end of the command waitpid must report ECHILD, "no child", at once.
"""

import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    code = subprocess.run(sys.argv[1:], check=False).returncode
    left = []
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as children:
                left = children.read().split()
            break
    for pid in left:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            words = command.read().replace(b"\0", b" ").decode(errors="replace")
        print(f"left behind: {pid} {words}", file=sys.stderr)
    print(f"exit code {code}, {len(left)} processes left")
    return code if code != 0 else int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
