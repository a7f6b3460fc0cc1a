"""Listings of the sites: invented, and the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIZES: Mapping[str, int] = {"books": 200, "quotes": 150, "gadgets": 240, "prints": 160, "tools": 180}

_ADJECTIVES = "Quiet Crooked Amber Distant Hollow Paper Silver Winter Borrowed Restless Salted Velvet".split()
_NOUNS = "Harbour Orchard Lantern Staircase Meridian Sparrow Archive Tide Compass Thicket Ferry Almanac".split()
_NAMES = "Ada Bruno Clara Dimitar Edith Farid Greta Hugo Ines Jonas Katya Leo".split()
_SURNAMES = "Marsh Novak Okafor Petrov Quist Rossi Sandoval Tanaka Ueda Vogel Weiss Young".split()
_THINGS = "Kettle Lamp Radio Clock Drill Scale Torch Speaker Fan Toaster Camera Printer".split()
_TAGS = "life work rain cities patience cats bread silence travel machines".split()


@dataclass(frozen=True)
class Listing:
    """One offered thing; `facts` are the values that its page shows."""

    id: str
    facts: Mapping[str, Any]


def catalogue(site: str) -> list[Listing]:
    """Return all listings of `site` in the order of its pages."""
    chance = random.Random(site)  # the same for each run
    describe = {"books": _book, "quotes": _quote, "gadgets": _gadget, "prints": _book, "tools": _gadget}[site]
    return [Listing(f"{site[0]}{number:04}", describe(chance)) for number in range(1, SIZES[site] + 1)]


def _person(chance: random.Random) -> str:
    return f"{chance.choice(_NAMES)} {chance.choice(_SURNAMES)}"


def _book(chance: random.Random) -> dict[str, Any]:
    return {
        "title": f"The {chance.choice(_ADJECTIVES)} {chance.choice(_NOUNS)}",
        "author": _person(chance),
        "price": chance.randrange(499, 4999) / 100,
        "stock": chance.randrange(0, 40),
    }


def _quote(chance: random.Random) -> dict[str, Any]:
    adjective, noun = chance.choice(_ADJECTIVES).lower(), chance.choice(_NOUNS).lower()
    return {
        "text": f"Every {noun} is {adjective} & waits for its {chance.choice(_NOUNS).lower()}.",
        "author": _person(chance),
        "tags": chance.sample(_TAGS, 3),
    }


def _gadget(chance: random.Random) -> dict[str, Any]:
    return {
        "name": f"{chance.choice(_ADJECTIVES)} {chance.choice(_THINGS)} {chance.randrange(100, 999)}",
        "maker": f"{chance.choice(_SURNAMES)} & {chance.choice(_SURNAMES)}",
        "price": chance.randrange(999, 199999) / 100,
        "weight": f"{chance.randrange(50, 9000)} g",
    }
