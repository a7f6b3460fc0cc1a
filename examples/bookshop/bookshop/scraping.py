"""Tasks that scrape a site: collect its listings -> scrape them in chunks -> `out/<site>.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from celery import chord
from celery.utils.log import get_task_logger

from bookshop import settings
from bookshop.celery import app
from bookshop.fetch import Fetcher, FetchError
from bookshop.files import replace_text
from bookshop.listings import Layout, ParseError, layout_of
from bookshop.pool import load_pool, usable
from bookshop.progress import Progress, now

logger = get_task_logger(__name__)

CHUNK_SIZE = 15  # listings
MAX_PAGES = 500  # of listings, for each start address


def progress_of(site: str, job_id: str) -> Progress:
    return Progress(f"scrape_{site}", job_id)


@app.task
def dispatch_site(site: str, start_urls: list[str]) -> dict[str, Any]:
    """Start the scrape of `site`; `chord_id` is the task whose result marks the end of the scrape."""
    layout = layout_of(site)
    job_id = uuid4().hex[:12]
    progress = progress_of(site, job_id)
    progress.set(status="COLLECTING", started_at=now())
    try:
        urls = collect_listings(layout, start_urls)
    except FetchError as error:
        progress.set(status="FAILED", completed_at=now())
        return {"job_id": job_id, "error": str(error)}
    if not urls:
        progress.set(status="COMPLETE", total_urls=0, total_chunks=0, result_count=0, completed_at=now())
        return {"job_id": job_id, "total_urls": 0, "status": "NO_URLS"}

    chunks = [urls[start : start + CHUNK_SIZE] for start in range(0, len(urls), CHUNK_SIZE)]
    progress.set(status="DISPATCHED", total_urls=len(urls), total_chunks=len(chunks), completed_chunks=0)
    header = (scrape_chunk.s(site, job_id, index, chunk) for index, chunk in enumerate(chunks))
    callback = chord(header, aggregate.s(site, job_id)).apply_async()
    return {"job_id": job_id, "chord_id": callback.id, "total_urls": len(urls), "total_chunks": len(chunks)}


class ChunkError(Exception):
    """No listing of a chunk could be scraped."""


@app.task(acks_late=True, reject_on_worker_lost=True)
def scrape_chunk(site: str, job_id: str, index: int, urls: list[str]) -> dict[str, Any]:
    """Scrape the listings at `urls`. A listing that cannot be scraped is an error and does not fail the chunk."""
    progress = progress_of(site, job_id)
    progress.set(status="PROCESSING")
    layout = layout_of(site)
    items, errors = [], []
    with Fetcher(usable(load_pool())) as fetcher:
        for url in urls:
            try:
                items.append(layout.item(url, fetcher.get(url)))
            except (FetchError, ParseError) as error:
                logger.warning("%s: %s", site, error)
                errors.append(str(error))
    progress.chunk_done(index)
    if errors and not items:
        raise ChunkError(f"none of {len(errors)} listings, the last: {errors[-1]}")
    return {"items": items, "errors": errors}


@app.task
def aggregate(chunks: list[dict[str, Any]], site: str, job_id: str) -> dict[str, int]:
    """Replace `out/<site>.jsonl` by the results of the chunks."""
    progress = progress_of(site, job_id)
    progress.set(status="AGGREGATING")
    items = sorted((item for chunk in chunks for item in chunk["items"]), key=lambda item: item["id"])
    errors = sum(len(chunk["errors"]) for chunk in chunks)
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    replace_text(settings.OUT_DIR / f"{site}.jsonl", "".join(lines))
    progress.set(status="COMPLETE", result_count=len(items), error_count=errors, completed_at=now())
    return {"saved": len(items), "errors": errors, "total_processed": len(items) + errors}


def collect_listings(layout: Layout, start_urls: Iterable[str]) -> list[str]:
    """Return the addresses of all listings, each once, in the order of the pages."""
    found: dict[str, None] = {}
    with Fetcher(usable(load_pool())) as fetcher:
        for url in start_urls:
            for _ in range(MAX_PAGES):
                links, next_page = layout.links(url, fetcher.get(url))
                found.update(dict.fromkeys(links))
                if next_page is None:
                    break
                url = next_page
    return list(found)
