"""Addresses from the environment, and paths of the project's files."""

import os
from pathlib import Path

BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1")
JUDGE_URL = os.environ.get("JUDGE_URL", "http://127.0.0.1:8100/")

PROJECT = Path(__file__).resolve().parent.parent
CANDIDATES_FILE = PROJECT / "candidates.txt"
POOL_FILE = PROJECT / "live_proxies.json"
OUT_DIR = PROJECT / "out"
