"""The proxy judge: returns the client's address and headers to the client. `python -m shop.judge --port 8100`"""

import argparse
import time

from shop.server import Handler, serve

DELAY = 0.3  # seconds until an answer, similar to a real judge


class JudgeHandler(Handler):
    def do_GET(self) -> None:
        time.sleep(DELAY)
        self.answer_json({"address": self.client_address[0], "headers": dict(self.headers)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a proxy judge on loopback.")
    parser.add_argument("--port", type=int, required=True)
    serve("judge", JudgeHandler, parser.parse_args().port)


if __name__ == "__main__":
    main()
