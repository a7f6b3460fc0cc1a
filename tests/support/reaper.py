"""Runs one orch and adopts its orphans, as a child subreaper: `reaper.py REPORT SECONDS STDOUT STDERR COMMAND [ARGUMENT ...]`.

Prints the pid of the command. After the end of the command, waits until all of its descendants have ended (ECHILD), at
most SECONDS, and writes REPORT: {"code", "signal", "gone_after", "left": [command lines]}. With REAPER_USER, a number, the
command runs as that user.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def children() -> list[int]:
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as listing:
        return [int(pid) for pid in listing.read().split()]


def words(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return f"{pid} {command.read().replace(bytes(1), b' ').decode(errors='replace')}"
    except OSError:
        return str(pid)


def main() -> None:
    report, seconds, stdout, stderr, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    # A pipe to which the handler of SIGCHLD writes: the wait for a death is a wait for a byte.
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # If the tests run under nohup, SIGHUP is ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # A command that a shell starts in the background ignores these.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        out = os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        err = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        for target, source in enumerate((null, out, err)):
            os.dup2(source, target)
        if user := os.environ.pop("REAPER_USER", None):
            os.setgroups([])
            os.setgid(int(user))
            os.setuid(int(user))
        os.execv(command[0], command)
    print(pid, flush=True)
    status, ended, deadline = None, None, None
    while True:
        try:
            dead, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if dead == pid:
            status, ended = code, time.monotonic()
            deadline = ended + float(seconds)
        elif dead == 0:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic())
            if patience == 0.0:
                break
            if select.select([wake_read], [], [], patience)[0]:
                os.read(wake_read, 4096)
    left = children()
    result = {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "gone_after": time.monotonic() - ended,
        "left": [words(child) for child in left],
    }
    for child in left:
        os.kill(child, signal.SIGKILL)
    with open(report, "w", encoding="utf-8") as output:
        json.dump(result, output)


if __name__ == "__main__":
    main()
