#!/usr/bin/env python3
"""Another user of the machine, an attacker of the passwords of an owned Redis and of everything else of a running orch.

stranger.py SECONDS PROJECT LOG PIDS: tries everything again and again, until the file PIDS.stop exists, at most SECONDS.
LOG gets one line for each success, and at the end the number of attempts of each kind. PIDS is a file with the processes of
the instance, which the test updates."""
import ctypes, glob, os, re, signal, socket, sys, threading, time

seconds, project, log, pids_file = float(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
# Within a session every process may send SIGCONT; this process gets a session of its own.
os.setsid()
end = time.time() + seconds
state = os.path.join(project, ".orch")
log = open(log, "a", buffering=1)
lock = threading.Lock()
tried = {}
libc = ctypes.CDLL(None, use_errno=True)


def attempt(way):
    with lock:
        tried[way] = tried.get(way, 0) + 1


def gained(what):
    with lock:
        log.write("GAINED %s\n" % str(what).replace("\n", " "))


def left():
    return time.time() < end and not os.path.exists(pids_file + ".stop")


def pids():
    try:
        return [int(word) for word in open(pids_file).read().split()]
    except (OSError, ValueError):
        return []


def listening():
    found = {}
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A":
            found[int(words[1].split(":")[1], 16)] = int(words[7])
    return found


def owner(connection):
    """Returns the owner of the other end of a connection, which may be another part of this program."""
    ends = [("0100007F:%04X" % end[1]) for end in (connection.getpeername(), connection.getsockname())]
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        words = line.split()
        if words[1:3] == ends and words[9] != "0":
            return int(words[7])
    return None


def play_redis(connection):
    """Answers as Redis does, and logs the requests."""
    connection.settimeout(1)
    try:
        while left():
            heard = connection.recv(65536)
            if not heard:
                return
            with lock:
                log.write("HEARD %r\n" % heard[:2000])
            # In the order of the commands of a probe: AUTH, PING.
            answer = b""
            for command in re.findall(rb"(?i)\b(AUTH|HELLO|PING|RESET|INFO|SELECT|CLIENT|CONFIG)\b", heard):
                answer += {b"PING": b"+PONG\r\n", b"RESET": b"+RESET\r\n"}.get(command.upper(), b"+OK\r\n")
            connection.sendall(answer or b"+OK\r\n")
    except OSError:
        pass
    finally:
        connection.close()


def take(port):
    """Takes a port, if it is free, and serves all clients for a moment."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
        server.listen(50)
    except OSError:
        server.close()
        return False
    server.settimeout(0.02)
    attempt("took a port")
    over = time.time() + 0.3
    while time.time() < over:
        try:
            connection, _ = server.accept()
        except OSError:
            continue
        threading.Thread(target=play_redis, args=(connection,), daemon=True).start()
    server.close()
    return True


def announced_ports():
    """Searches for ports that orch announces before they are bound."""
    while left():
        attempt("looked for announced ports")
        for line in open("/proc/net/unix").read().splitlines():
            for port in re.findall(r"@.*?(\d{4,5})$", line):
                if "orch" in line:
                    gained("an announced port: %s" % line)
                    take(int(port))
        time.sleep(0.002)


def reserved_ports():
    """Searches for reserved ports: they cannot be bound, and no process listens on them."""
    while left():
        known = listening()
        for port in range(20000, 32768):
            if not left():
                return
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if port not in known:
                    attempt("found a held port")
                    over = time.time() + 0.5
                    while time.time() < over and not take(port):
                        pass
            finally:
                probe.close()
        attempt("went through the ports")
        time.sleep(0.2)


def default_port():
    while left():
        attempt("took 6379")
        take(6379)
        time.sleep(0.05)


def redis():
    """Sends commands to each server of other users."""
    while left():
        for port, uid in listening().items():
            if uid == os.getuid() or port < 1024:
                continue
            for words in ("PING", "AUTH orch x", "AUTH default x", "AUTH x", "HELLO 3", "CONFIG GET dir", "ACL LIST", "MONITOR"):
                try:
                    with socket.create_connection(("127.0.0.1", port), 0.5) as connection:
                        connection.sendall(words.encode() + b"\r\n")
                        connection.settimeout(0.2)
                        answer = connection.recv(4096)
                        uid = owner(connection)
                except OSError:
                    continue
                attempt("talked to a server")
                if answer and not answer.startswith(b"-") and uid != os.getuid():
                    with lock:
                        log.write("ANSWER port %d of %s %s %r\n" % (port, uid, words, answer[:100]))
        time.sleep(0.02)


def files():
    targets = ["redis/redis.conf", "instance.json", "redis/data/redis.sock", "services.lock", "run.lock", "version", "ports.json", "", "runs", "pids", "redis"]
    while left():
        for name in targets:
            path = os.path.join(state, name)
            for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_PATH | os.O_NOFOLLOW if name else os.O_RDONLY):
                attempt("opened a file")
                try:
                    os.close(os.open(path, flags))
                    gained("opened %s with %o" % (path, flags))
                except OSError:
                    pass
            for change in (lambda: os.unlink(path), lambda: os.rename(path, path + ".away"), lambda: os.symlink("/etc/passwd", path + ".link"), lambda: os.chmod(path, 0o777), lambda: os.link(path, "/tmp/stranger-link-%d" % os.getpid())):
                attempt("changed a file")
                try:
                    change()
                    gained("changed %s" % path)
                except OSError:
                    pass
        for directory in ("/dev/shm/orch-%d" % os.stat(project).st_uid, "/tmp/orch-%d" % os.stat(project).st_uid):
            attempt("looked into the private directory")
            try:
                os.listdir(directory)
                gained("listed %s" % directory)
            except OSError:
                pass
            try:
                open(os.path.join(directory, "x"), "w")
                gained("wrote into %s" % directory)
            except OSError:
                pass
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                attempt("connected to the socket")
                connection.connect(os.path.join(state, "redis/data/redis.sock"))
                gained("connected to the socket")
        except OSError:
            pass
        time.sleep(0.01)


def processes():
    while left():
        for pid in pids():
            for name in ("environ", "mem", "maps", "fd", "cwd", "root", "exe", "stack", "syscall", "auxv", "map_files"):
                path = "/proc/%d/%s" % (pid, name)
                attempt("looked at a process")
                try:
                    if name in ("cwd", "root", "exe"):
                        os.readlink(path)
                    elif name in ("fd", "map_files"):
                        os.listdir(path)
                    else:
                        with open(path, "rb") as file:
                            if not file.read(16):
                                continue
                    gained("read %s" % path)
                except OSError:
                    pass
            for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT):
                attempt("sent a signal")
                try:
                    os.kill(pid, number)
                    gained("signal %d to %d" % (number, pid))
                except OSError:
                    pass
            attempt("traced a process")
            # PTRACE_SEIZE, then the descriptors by pidfd_getfd.
            if libc.ptrace(0x4206, pid, 0, 0) == 0:
                gained("traced %d" % pid)
            try:
                handle = os.pidfd_open(pid)
                for descriptor in range(12):
                    if libc.syscall(438, handle, descriptor, 0) >= 0:
                        gained("descriptor %d of %d" % (descriptor, pid))
                os.close(handle)
            except OSError:
                pass
            try:
                with open("/proc/%d/cmdline" % pid, "rb") as file:
                    with lock:
                        log.write("HEARD %r\n" % file.read(4000))
            except OSError:
                pass
        time.sleep(0.02)


ways = (announced_ports, reserved_ports, default_port, redis, files, processes)
# Processes and not threads: each has its own share of the processors and of the descriptors.
children = []
for way in ways:
    child = os.fork()
    if child == 0:
        try:
            way()
            log.write("TRIED %s %s\n" % (way.__name__, " ".join("%s=%d" % (name.replace(" ", "_"), count) for name, count in tried.items())))
            os._exit(0)
        except BaseException as error:
            log.write("BROKEN %s %r\n" % (way.__name__, error))
            os._exit(1)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
log.write("END\n")
