"""A web site with pages of listings: `python -m shop.site books --port 8101`.

As on the real internet some pages are slow, and some answer 500 to their first request. A site can have problems: with
`--only 12` it has only 12 listings, with `--gone-after 30` all listings after the first 30 requested ones answer 404,
with `--silent-after 30` those never answer. `/truth.json` lists the real content of the site.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from zlib import crc32

from shop.catalogue import SIZES, catalogue
from shop.pages import PAGES, document
from shop.server import Handler, serve

PAGE_SIZE = 20
SILENCE = 3600.0  # seconds


@dataclass(frozen=True)
class Mood:
    """Problems of a site, as numbers of listings."""

    only: int | None = None
    gone_after: int | None = None
    silent_after: int | None = None


class Site:
    """Content of one site, and the pages that have already failed."""

    def __init__(self, name: str, mood: Mood = Mood()) -> None:
        self.name = name
        self.listings = catalogue(name)[: mood.only]
        self._mood = mood
        self._asked: set[str] = set()
        self._pages = PAGES[name]
        self._by_id = {listing.id: listing for listing in self.listings}
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    @property
    def page_count(self) -> int:
        return -(-len(self.listings) // PAGE_SIZE)

    def html(self, path: str) -> str | None:
        """Return the page at `path`; None if there is no such page."""
        kind, _, name = path.strip("/").partition("/")
        if kind == "listing" and name in self._by_id:
            return self._pages.listing(self._by_id[name])
        if path == "/":
            return self._overview(1)
        if kind == "page" and name.isdecimal() and 1 <= int(name) <= self.page_count:
            return self._overview(int(name))
        return None

    def _overview(self, number: int) -> str:
        shown = self.listings[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return self._pages.overview(shown, f"/page/{number + 1}" if number < self.page_count else None)

    def delay(self, path: str) -> float:
        """Return the delay of the page at `path` in seconds: 0.1 to 0.4 for every tenth page."""
        dice = crc32(f"slow {self.name} {path}".encode())
        return 0.0 if path == "/" or dice % 10 else 0.1 + dice // 10 % 300 / 1000

    def fails(self, path: str) -> bool:
        """Return whether this request for `path` fails: for every twelfth page the first request does."""
        if path == "/" or crc32(f"fail {self.name} {path}".encode()) % 12:
            return False
        with self._lock:
            first = path not in self._failed
            self._failed.add(path)
        return first

    def _was_asked_after(self, limit: int | None, path: str) -> bool:
        """Return whether `limit` other listings were requested before the listing at `path`."""
        if limit is None or not path.startswith("/listing/"):
            return False
        with self._lock:
            if path not in self._asked and len(self._asked) < limit:
                self._asked.add(path)
            return path not in self._asked

    def is_gone(self, path: str) -> bool:
        return self._was_asked_after(self._mood.gone_after, path)

    def is_silent(self, path: str) -> bool:
        return self._was_asked_after(self._mood.silent_after, path)

    def truth(self) -> dict[str, object]:
        """Return the results of a complete scrape, and the number of intended failures so far."""
        return {
            "site": self.name,
            "listings": len(self.listings),
            "pages": self.page_count,
            "ids": [listing.id for listing in self.listings],
            "failed": len(self._failed),
        }


def handler_of(site: Site) -> type[Handler]:
    class SiteHandler(Handler):
        def do_GET(self) -> None:
            if self.path == "/truth.json":
                self.answer_json(site.truth())
                return
            if site.is_silent(self.path):
                time.sleep(SILENCE)
                return
            html = site.html(self.path)
            if html is None or site.is_gone(self.path):
                self.answer(document("Not found", "Not found"), "text/html", HTTPStatus.NOT_FOUND)
            elif site.fails(self.path):
                self.answer(document("Error", "Try again"), "text/html", HTTPStatus.INTERNAL_SERVER_ERROR)
            else:
                time.sleep(site.delay(self.path))
                self.answer(html, "text/html")

    return SiteHandler


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a site on loopback.")
    parser.add_argument("site", choices=SIZES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--only", type=int, metavar="LISTINGS")
    parser.add_argument("--gone-after", type=int, metavar="LISTINGS")
    parser.add_argument("--silent-after", type=int, metavar="LISTINGS")
    options = parser.parse_args()
    mood = Mood(options.only, options.gone_after, options.silent_after)
    serve(options.site, handler_of(Site(options.site, mood)), options.port)


if __name__ == "__main__":
    main()
