"""Requests of pages over HTTP, through the proxy pool."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable

import requests
from requests.exceptions import ConnectTimeout, ProxyError, RequestException

from bookshop.pool import Proxy

ATTEMPTS = 6
FIRST_DELAY = 0.1  # seconds, doubled after each attempt
TIMEOUT = (3.0, 10.0)  # seconds to connect, to read
HEADERS = {"User-Agent": "bookshop/1.0"}


class FetchError(Exception):
    """A page could not be fetched."""


class Fetcher:
    """Uses the next proxy for each request, and another proxy when a request fails."""

    def __init__(self, proxies: Iterable[Proxy]) -> None:
        self._proxies = deque(proxies)
        random.shuffle(self._proxies)
        self._session = requests.Session()
        self._session.trust_env = False  # use the proxies of the pool, not those of the environment
        self._session.headers.update(HEADERS)

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str) -> str:
        """Return the text of the page. Retry failures after a delay; do not use a dead proxy again."""
        failures = 0
        while self._proxies:
            self._proxies.rotate()
            proxy = self._proxies[0].url
            try:
                response = self._session.get(url, proxies={"http": proxy, "https": proxy}, timeout=TIMEOUT)
            except (ProxyError, ConnectTimeout):
                self._proxies.popleft()
                continue
            except RequestException as error:
                failure = str(error)
            else:
                if response.ok:
                    response.encoding = "utf-8"
                    return response.text
                failure = f"{response.status_code} {response.reason}"
                if response.status_code < 500:
                    raise FetchError(f"{url}: {failure}")
            failures += 1
            if failures == ATTEMPTS:
                raise FetchError(f"{url}: {failure} ({ATTEMPTS} attempts)")
            time.sleep(FIRST_DELAY * 2 ** (failures - 1))
        raise FetchError(f"{url}: no live proxy left")
