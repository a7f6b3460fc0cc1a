"""Preparation of the project for a run: `python -m shop.prepare HOST:PORT...` with the candidate proxies.

Writes the candidates to `candidates.txt` and removes all other proxies from the pool: those belong to an earlier run on
other ports.
"""

from __future__ import annotations

import argparse

from bookshop import settings
from bookshop.files import replace_text
from bookshop.pool import load_pool, save_pool


def main() -> None:
    parser = argparse.ArgumentParser(description="Create directories and the list of candidate proxies.")
    parser.add_argument("candidates", nargs="+", metavar="HOST:PORT")
    candidates = parser.parse_args().candidates

    settings.OUT_DIR.mkdir(exist_ok=True)
    replace_text(settings.CANDIDATES_FILE, "\n".join(candidates) + "\n")
    pool = load_pool()
    known = [proxy for proxy in pool if f"{proxy.host}:{proxy.port}" in candidates]
    if known != pool:
        save_pool(known)
    print(f"{len(candidates)} candidates, {len(known)} of them known to be live")


if __name__ == "__main__":
    main()
