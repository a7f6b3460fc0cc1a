"""The pool of live proxies: `live_proxies.json`, an array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bookshop import settings
from bookshop.files import replace_text

TRANSPARENT = "Transparent"
ANONYMOUS = "Anonymous"
ELITE = "Elite"


@dataclass(frozen=True)
class Proxy:
    """A proxy that answered when it was last checked."""

    host: str
    port: int
    protocol: str
    anonymity: str
    timeout: float  # seconds that the check took

    @property
    def url(self) -> str:
        return f"{self.protocol}://{self.host}:{self.port}"


def load_pool() -> list[Proxy]:
    """Return all live proxies; an empty list if the pool does not exist or cannot be read."""
    try:
        return [Proxy(**entry) for entry in json.loads(settings.POOL_FILE.read_text(encoding="utf-8"))]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def usable(proxies: Iterable[Proxy]) -> list[Proxy]:
    """Return the proxies that do not reveal the client's address to a site."""
    return [proxy for proxy in proxies if proxy.anonymity != TRANSPARENT]


def save_pool(proxies: Iterable[Proxy]) -> None:
    """Replace the pool; the fastest proxies come first."""
    ranked = sorted(proxies, key=lambda proxy: proxy.timeout)
    replace_text(settings.POOL_FILE, json.dumps([asdict(proxy) for proxy in ranked], indent=2) + "\n")
