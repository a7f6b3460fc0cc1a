# Imports a Celery app as `celery -A` does and prints its effective transport settings as one line of JSON. Arguments:
# the `celery` program, the app, then settings as they follow `--` on a worker's command line. Runs on Python 3.7 and
# newer, Celery 5.2 and newer. Only the values named below leave the app: no URL, no password.
import json
import os
import sys

MARK = "orch-app-settings "
MOST_FILES = 5000
OPTIONS = (
    "global_keyprefix",
    "sep",
    "priority_steps",
    "fanout_prefix",
    "fanout_patterns",
    "unacked_key",
    "unacked_index_key",
)
SETTINGS = (
    "control_exchange",
    "event_exchange",
    "worker_enable_remote_control",
    "worker_pool",
    "accept_content",
    "task_serializer",
    "result_serializer",
    "event_serializer",
)

program, name, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
read = set()


def note(event, values):
    # Every file that the import reads may determine a setting.
    if event == "open":
        path, flags = values[0], values[2]
        if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & 3 == 0:
            read.add(os.path.abspath(os.fsdecode(path)))


def for_sentinels(options):
    # Other options may contain passwords.
    options = dict(options or {})
    name = options.pop("master_name", None)
    return {"master_name": name, "has_others": bool(options)}


def learn():
    from celery.app.utils import find_app

    app = find_app(name)
    if arguments:
        app.config_from_cmdline(arguments, namespace="worker")
    conf = app.conf
    options = dict(conf.broker_transport_options or {})
    settings = {key: conf.get(key) for key in SETTINGS}
    settings["broker_transport_options"] = {key: options[key] for key in OPTIONS if key in options}
    settings["sentinel"] = {
        "broker": for_sentinels(options),
        "results": for_sentinels(conf.get("result_backend_transport_options")),
    }
    try:
        prefix = app.backend.task_keyprefix
    except Exception:
        # There is no backend with keys, or it cannot be created: the worker reports that.
        prefix = ""
    if isinstance(prefix, bytes):
        prefix = prefix.decode("utf-8", "replace")
    ending = "celery-task-meta-"
    settings["backend_key_prefix"] = prefix[: -len(ending)] if prefix.endswith(ending) else ""
    return settings


def sources():
    library = os.path.dirname(os.path.realpath(os.__file__))
    of_app = name.split(":")[0].split(".")[0]
    files = {program, sys.executable}
    foreign = set(read)
    for module_name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            top = module_name.split(".")[0]
            if top == of_app or module_name in ("celery", "kombu"):
                files.add(os.path.abspath(path))
            else:
                foreign.add(os.path.abspath(path))
    for path in foreign:
        is_installed = "/site-packages/" in path or "/dist-packages/" in path or path.startswith(library + "/")
        is_device = path.startswith(("/proc/", "/sys/", "/dev/"))
        if not is_installed and not is_device and not path.endswith((".pyc", ".pth", "pyvenv.cfg")):
            files.add(path)
    for path in sorted(files):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if os.path.isfile(path):
            yield [path, status.st_mtime_ns, status.st_ctime_ns, status.st_size]


def plain(value):
    if isinstance(value, (set, frozenset, range)):
        return sorted(value)
    return repr(value)


if sys.path and sys.path[0] == "":
    # The worker has the directory of its program here.
    sys.path[0] = os.path.dirname(program)
sys.argv = [program, "-A", name, "worker"]
if hasattr(sys, "addaudithook"):
    sys.addaudithook(note)
settings = learn()
files = list(sources())
printed = {"settings": settings, "files": files if len(files) <= MOST_FILES else None}
line = "\n" + MARK + json.dumps(printed, default=plain) + "\n"
sys.stdout.flush()
sys.stderr.flush()
line = line.encode("utf-8", "replace")
while line:
    line = line[os.write(1, line) :]
# Threads that the app has started must not keep the process alive.
os._exit(0)
