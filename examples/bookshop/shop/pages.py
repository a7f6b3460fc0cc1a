"""HTML of the sites. Each site has a different layout, as real sites do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Callable, NamedTuple

from shop.catalogue import Listing


class Pages(NamedTuple):
    """Templates of a site: an overview page of listings (with the address of the next page, if any), and a listing."""

    overview: Callable[[Sequence[Listing], str | None], str]
    listing: Callable[[Listing], str]


def document(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _each(template: Callable[[Listing], str], listings: Sequence[Listing]) -> str:
    return "\n".join(map(template, listings))


def _books_index(listings: Sequence[Listing], next_page: str | None) -> str:
    books = _each(
        lambda book: (
            f'<article class="book"><h3><a href="/listing/{book.id}">{escape(book.facts["title"])}</a></h3>'
            f'<p class="price">£{book.facts["price"]:,.2f}</p></article>'
        ),
        listings,
    )
    pager = f'<ul class="pager"><li class="next"><a href="{next_page}">next</a></li></ul>' if next_page else ""
    return document("Books", books + pager)


def _book(book: Listing) -> str:
    title, author = escape(book.facts["title"]), escape(book.facts["author"])
    return document(
        book.facts["title"],
        f'<h1>{title}</h1>\n<p class="author">by <a href="/author">{author}</a></p>\n'
        f'<p class="price">£{book.facts["price"]:,.2f}</p>\n'
        f'<p class="stock">In stock: <b>{book.facts["stock"]}</b></p>',
    )


def _quotes_index(listings: Sequence[Listing], next_page: str | None) -> str:
    quotes = _each(
        lambda quote: (
            f'<div class="quote"><q>{escape(quote.facts["text"])}</q> '
            f'<a class="permalink" href="/listing/{quote.id}">#</a></div>'
        ),
        listings,
    )
    pager = f'<nav><a class="older" href="{next_page}">older</a></nav>' if next_page else ""
    return document("Quotes", quotes + pager)


def _quote(quote: Listing) -> str:
    tags = " ".join(f"<li>{tag}</li>" for tag in quote.facts["tags"])
    return document(
        "Quote",
        f"<blockquote><p>{escape(quote.facts['text'])}</p><cite>{escape(quote.facts['author'])}</cite></blockquote>\n"
        f'<ul class="tags">{tags}</ul>',
    )


def _gadgets_index(listings: Sequence[Listing], next_page: str | None) -> str:
    rows = _each(
        lambda gadget: (
            f'<tr><td><a href="/listing/{gadget.id}">{escape(gadget.facts["name"])}</a></td>'
            f"<td>{escape(gadget.facts['maker'])}</td></tr>"
        ),
        listings,
    )
    pager = f'<a rel="next" href="{next_page}">more</a>' if next_page else ""
    return document("Gadgets", f'<table id="catalogue">{rows}</table>{pager}')


def _gadget(gadget: Listing) -> str:
    facts = gadget.facts
    return document(
        facts["name"],
        f'<h2 itemprop="name">{escape(facts["name"])}</h2>\n<dl>'
        f'<dt>Maker</dt><dd itemprop="brand">{escape(facts["maker"])}</dd>'
        f'<dt>Price</dt><dd itemprop="price">€{facts["price"]:,.2f}</dd>'
        f'<dt>Weight</dt><dd class="weight">{facts["weight"]}</dd></dl>',
    )


PAGES: Mapping[str, Pages] = {
    "books": Pages(_books_index, _book),
    "quotes": Pages(_quotes_index, _quote),
    "gadgets": Pages(_gadgets_index, _gadget),
    # Two more shops with the same software.
    "prints": Pages(_books_index, _book),
    "tools": Pages(_gadgets_index, _gadget),
}
