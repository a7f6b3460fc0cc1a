"""Nightly scrape of three shops through forward proxies."""
