"""Substitute of the internet for the bookshop project: web sites, a proxy judge, forward proxies, all on loopback."""
