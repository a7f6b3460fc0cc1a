"""The Celery application: `celery -A bookshop worker -Q bookshop`."""

from celery import Celery

from bookshop import settings

app = Celery(
    "bookshop",
    broker=settings.BROKER_URL,
    backend=settings.RESULT_BACKEND,
    include=["bookshop.proxies", "bookshop.scraping"],
)
app.conf.update(
    task_default_queue="bookshop",
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_expires=3600,
    timezone="UTC",
    # Chunks take about a second. A worker that takes only the tasks that it can run keeps the load even.
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
