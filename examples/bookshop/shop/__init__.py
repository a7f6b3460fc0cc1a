"""What the internet is for the bookshop project: web sites, a proxy judge and forward proxies, all on loopback."""
