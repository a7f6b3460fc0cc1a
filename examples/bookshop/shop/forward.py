"""A group of forward proxies on loopback, one for each port: `python -m shop.forward elite 8201 8202`.

`elite` proxies are not recognisable, `anonymous` proxies add a Via header, `transparent` proxies reveal the client's
address.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

# proxy.py creates directories below the home directory, which it determines when it is imported.
os.environ["HOME"] = str(Path(__file__).resolve().parent.parent / "var")

from proxy import Proxy  # noqa: E402
from proxy.http.parser import HttpParser  # noqa: E402
from proxy.http.proxy import HttpProxyBasePlugin  # noqa: E402

HOST = "127.0.0.1"


class RevealClient(HttpProxyBasePlugin):
    """Makes a proxy transparent."""

    def handle_client_request(self, request: HttpParser) -> HttpParser:
        address, _ = self.client.addr
        request.add_header(b"X-Forwarded-For", address.encode())
        return request


OPTIONS: dict[str, dict[str, Any]] = {
    "elite": {"disable_headers": [b"via"]},
    "anonymous": {},
    "transparent": {"plugins": [RevealClient]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run forward proxies on loopback.")
    parser.add_argument("kind", choices=OPTIONS)
    parser.add_argument("ports", type=int, nargs="+")
    options = parser.parse_args()
    first, *others = options.ports
    where = f"{HOST}, ports {', '.join(map(str, options.ports))}"
    proxies = Proxy(
        ["--hostname", HOST, "--num-acceptors", "1", "--num-workers", "1", "--log-level", "WARNING"],
        port=first,
        ports=[others],
        **OPTIONS[options.kind],
    )
    try:
        proxies.setup()
    except OSError as error:
        sys.exit(f"{options.kind} proxies: cannot listen on {where}: {error.strerror}")
    try:
        print(f"{options.kind} proxies: {where}", flush=True)
        (worker,) = proxies.acceptors.acceptors
        worker.join()  # ended by a signal; if the worker process dies, this process must end too, so that orch notices
        sys.exit(f"{options.kind} proxies: the worker process has ended")
    finally:
        proxies.shutdown()


if __name__ == "__main__":
    main()
