"""A small HTTP server on loopback, for the sites and the judge."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

HOST = "127.0.0.1"


class Handler(BaseHTTPRequestHandler):
    """Request handler that keeps connections open and logs only errors."""

    protocol_version = "HTTP/1.1"

    def answer(self, body: str, content_type: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_json(self, value: Any) -> None:
        self.answer(json.dumps(value, indent=2) + "\n", "application/json")

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        if int(code) >= HTTPStatus.BAD_REQUEST:
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer.server_bind would ask the name service for this machine's name


def serve(name: str, handler: type[Handler], port: int) -> None:
    """Serve until the process ends. Exit at once if the port is already in use."""
    try:
        server = Server((HOST, port), handler)
    except OSError as error:
        sys.exit(f"{name}: cannot listen on {HOST}:{port}: {error.strerror}")
    with server:
        print(f"{name}: http://{HOST}:{server.server_address[1]}/", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
