"""Progress of a job, stored in Redis for any observer: `<prefix>:<job id>:<field>`."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cache

import redis

from bookshop import settings

TTL = 3600  # seconds


def now() -> str:
    """Return the present time as ISO 8601, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(settings.RESULT_BACKEND)


class Progress:
    """The keys of one job; each expires an hour after its last change."""

    def __init__(self, prefix: str, job_id: str) -> None:
        self._base = f"{prefix}:{job_id}:"

    def set(self, **fields: str | int) -> None:
        """Write the given fields in one transaction."""
        with _client().pipeline() as pipe:
            for field, value in fields.items():
                pipe.set(self._base + field, value, ex=TTL)
            pipe.execute()

    def chunk_done(self, index: int) -> None:
        """Count chunk `index` as completed, only once even if Celery delivers it twice."""
        done = self._base + "done"
        if not _client().sadd(done, index):
            return
        with _client().pipeline() as pipe:
            pipe.expire(done, TTL)
            pipe.incr(self._base + "completed_chunks")
            pipe.expire(self._base + "completed_chunks", TTL)
            pipe.execute()
