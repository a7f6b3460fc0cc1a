"""A group of forward proxies, one a port, on loopback: `python -m shop.forward elite 8201 8202`.

`elite` proxies do not show themselves, `anonymous` ones add a Via header, `transparent` ones tell who is asking.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# proxy.py makes directories below the home directory, which it looks up when it is imported.
os.environ["HOME"] = str(Path(__file__).resolve().parent.parent / "var")

from proxy import Proxy, sleep_loop  # noqa: E402
from proxy.http.parser import HttpParser  # noqa: E402
from proxy.http.proxy import HttpProxyBasePlugin  # noqa: E402

HOST = "127.0.0.1"


class TellClient(HttpProxyBasePlugin):
    """Makes a proxy transparent."""

    def handle_client_request(self, request: HttpParser) -> HttpParser:
        request.add_header(b"X-Forwarded-For", self.client.addr[0].encode())
        return request


OPTIONS = {
    "elite": {"disable_headers": [b"via"]},
    "anonymous": {},
    "transparent": {"plugins": [TellClient]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run forward proxies on loopback.")
    parser.add_argument("kind", choices=OPTIONS)
    parser.add_argument("ports", type=int, nargs="+")
    options = parser.parse_args()
    first, *others = options.ports
    proxies = Proxy(
        ["--hostname", HOST, "--num-acceptors", "1", "--num-workers", "1", "--log-level", "WARNING"],
        port=first,
        ports=[others],
        **OPTIONS[options.kind],
    )
    try:
        proxies.setup()
    except OSError as error:
        ports = ", ".join(map(str, options.ports))
        sys.exit(f"{options.kind} proxies: cannot listen on {HOST}, ports {ports}: {error.strerror}")
    try:
        print(f"{options.kind} proxies: {HOST}, ports {', '.join(map(str, options.ports))}", flush=True)
        sleep_loop()
    finally:
        proxies.shutdown()


if __name__ == "__main__":
    main()
