"""Layouts of the sites' pages: selectors of the listings and of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple
from urllib.parse import urljoin

from bs4 import BeautifulSoup


class ParseError(Exception):
    """A page does not have the expected layout."""


class Field(NamedTuple):
    """A value on a listing's page."""

    selector: str
    convert: Callable[[str], Any] = str


def price(text: str) -> float:
    """Convert a price such as `£1,234.50` to a number."""
    return float(text.lstrip("£€$ ").replace(",", ""))


@dataclass(frozen=True)
class Layout:
    """CSS selectors of one site."""

    listing: str  # links to listings
    next_page: str  # link to the next page of listings
    fields: Mapping[str, Field]

    def links(self, url: str, html: str) -> tuple[list[str], str | None]:
        """Return the addresses of the listings on an overview page, and the address of the next page, if any."""
        page = BeautifulSoup(html, "html.parser")
        following = page.select_one(self.next_page)
        return (
            [urljoin(url, str(link["href"])) for link in page.select(self.listing)],
            urljoin(url, str(following["href"])) if following else None,
        )

    def item(self, url: str, html: str) -> dict[str, Any]:
        """Return the fields of a listing from its page."""
        page = BeautifulSoup(html, "html.parser")
        item: dict[str, Any] = {"id": url.rsplit("/", 1)[-1], "url": url}
        for name, field in self.fields.items():
            element = page.select_one(field.selector)
            if element is None:
                raise ParseError(f"{url}: nothing at `{field.selector}` ({name})")
            try:
                item[name] = field.convert(element.get_text(" ", strip=True))
            except ValueError as error:
                raise ParseError(f"{url}: {name}: {error}") from error
        return item


BOOKS = Layout(
    listing="article.book h3 a",
    next_page="li.next a",
    fields={
        "title": Field("h1"),
        "author": Field("p.author a"),
        "price": Field("p.price", price),
        "stock": Field("p.stock b", int),
    },
)

GADGETS = Layout(
    listing="table#catalogue td:first-child a",
    next_page="a[rel=next]",
    fields={
        "name": Field("h2[itemprop=name]"),
        "maker": Field("[itemprop=brand]"),
        "price": Field("[itemprop=price]", price),
        "weight": Field("dl dd.weight"),
    },
)

LAYOUTS: Mapping[str, Layout] = {
    "books": BOOKS,
    "prints": BOOKS,  # the same shop software
    "gadgets": GADGETS,
    "tools": GADGETS,
    "quotes": Layout(
        listing="div.quote a.permalink",
        next_page="nav a.older",
        fields={
            "text": Field("blockquote p"),
            "author": Field("blockquote cite"),
            "tags": Field("ul.tags", str.split),
        },
    ),
}


def layout_of(site: str) -> Layout:
    """Return the layout of `site`; for an unknown site raise a `LookupError` that names the known ones."""
    try:
        return LAYOUTS[site]
    except KeyError:
        raise LookupError(f"no layout for site `{site}`; there are {', '.join(LAYOUTS)}") from None
