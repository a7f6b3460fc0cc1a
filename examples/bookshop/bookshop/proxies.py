"""Tasks that find live proxies: collect candidates -> check each against the judge -> save the pool."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import requests
from celery import chord
from celery.utils.log import get_task_logger

from bookshop import settings
from bookshop.celery import app
from bookshop.pool import ANONYMOUS, ELITE, TRANSPARENT, Proxy, save_pool, usable
from bookshop.progress import Progress, now

logger = get_task_logger(__name__)

TIMEOUT = (2.0, 5.0)  # seconds to connect, to read
TELLS_CLIENT = ("x-forwarded-for", "forwarded", "x-real-ip", "client-ip")
TELLS_PROXY = (*TELLS_CLIENT, "via", "proxy-connection", "x-proxy-id")


def progress_of(job_id: str) -> Progress:
    return Progress("proxy_refresh", job_id)


@app.task
def collect() -> list[str]:
    """Return the candidates as `host:port`."""
    lines = settings.CANDIDATES_FILE.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@app.task
def dispatch_checks(candidates: list[str]) -> dict[str, Any]:
    """Check every candidate; the callback replaces the pool."""
    if not candidates:
        raise ValueError(f"{settings.CANDIDATES_FILE} contains no candidate")
    address = ask_judge()["address"]  # without a proxy: the public address of this machine; fails without a judge
    job_id = uuid4().hex[:12]
    progress_of(job_id).set(status="DISPATCHED", total_chunks=len(candidates), completed_chunks=0, started_at=now())
    checks = (check.s(job_id, index, candidate, address) for index, candidate in enumerate(candidates))
    callback = chord(checks, save_live.s(job_id)).apply_async()
    return {"job_id": job_id, "chord_id": callback.id, "total_chunks": len(candidates)}


@app.task(acks_late=True, reject_on_worker_lost=True)
def check(job_id: str, index: int, candidate: str, address: str) -> dict[str, Any] | None:
    """Return the candidate as a live proxy, or None. `address` is the client's, which a good proxy does not reveal."""
    progress_of(job_id).set(status="PROCESSING")
    host, _, port = candidate.rpartition(":")
    started = time.monotonic()
    try:
        seen = ask_judge(proxy=f"http://{candidate}")
    except (requests.RequestException, ValueError) as error:
        logger.info("%s is dead: %s", candidate, error)
        live = None
    else:
        took = round(time.monotonic() - started, 3)
        live = asdict(Proxy(host, int(port), "http", anonymity_of(seen["headers"], address), took))
    progress_of(job_id).chunk_done(index)
    return live


@app.task
def save_live(checked: list[dict[str, Any] | None], job_id: str) -> dict[str, int]:
    """Replace the pool by the live proxies."""
    proxies = [Proxy(**live) for live in checked if live]
    save_pool(proxies)
    progress_of(job_id).set(status="COMPLETE", result_count=len(proxies), completed_at=now())
    return {"checked": len(checked), "live": len(proxies), "usable": len(usable(proxies))}


def ask_judge(proxy: str | None = None) -> dict[str, Any]:
    """Return the judge's view of a request: the address of the peer and the headers."""
    with requests.Session() as session:
        session.trust_env = False
        response = session.get(settings.JUDGE_URL, proxies={"http": proxy} if proxy else None, timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()


def anonymity_of(headers: Mapping[str, str], address: str) -> str:
    """Return how much a proxy that sent `headers` reveals about the client at `address`."""
    seen = {name.lower(): value for name, value in headers.items()}
    if any(address in seen.get(name, "") for name in TELLS_CLIENT):
        return TRANSPARENT
    return ANONYMOUS if any(name in seen for name in TELLS_PROXY) else ELITE
