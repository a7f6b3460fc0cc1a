#!/usr/bin/env python3
"""Records a run of orch in a terminal and writes the picture of the README: an SVG with some frames of the live view.

    python3 docs/picture/record.py docs/run.svg target/release/orch demo --dir DIRECTORY

Needs the PyPI package `pyte`, a terminal emulator. The frames are what the terminal showed; nothing is drawn by hand.
"""

import html
import os
import pty
import select
import subprocess
import sys
import time
from itertools import groupby

import pyte

COLUMNS, ROWS = 110, 24
CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.0, 18, 14
# A frame is kept for each change after this time.
FRAME_INTERVAL = 0.5
# How long the picture shows one frame, and the last one.
SHOWN, LAST_SHOWN = 0.6, 5.0
MAX_FRAMES = 24


def record(command):
    """Runs the command in a terminal and returns the screens that it showed."""
    master, slave = pty.openpty()
    import fcntl, struct, termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    frames, kept_at = [], 0.0
    while True:
        readable, _, _ = select.select([master], [], [], 600)
        if not readable:
            sys.exit("the command has been silent for ten minutes")
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        stream.feed(data)
        if time.monotonic() - kept_at > FRAME_INTERVAL:
            frames.append(lines(screen))
            kept_at = time.monotonic()
    frames.append(lines(screen))
    code = process.wait()
    if code != 0:
        sys.exit(f"the command ended with exit code {code}")
    return [frame for frame, _ in groupby(frames)]


def lines(screen):
    """Returns the screen as lines of spans: `(column, text, colour, is_bold)`."""
    result = []
    for row in range(ROWS):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        spans, column = [], 0
        for (colour, is_bold), group in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in group)
            if text.strip():
                spans.append((column, text.rstrip(), colour, is_bold))
            column += len(text)
        result.append(tuple(spans))
    return tuple(result)


def thinned(frames):
    """Returns at most MAX_FRAMES of the frames, evenly spread, with the last one."""
    if len(frames) <= MAX_FRAMES:
        return frames
    step = (len(frames) - 1) / (MAX_FRAMES - 1)
    return [frames[round(index * step)] for index in range(MAX_FRAMES)]


def svg(frames):
    """Returns the picture: one group for each frame, shown in turn by CSS."""
    width = COLUMNS * CELL_WIDTH + 2 * MARGIN
    height = ROWS * LINE_HEIGHT + 2 * MARGIN
    total = SHOWN * (len(frames) - 1) + LAST_SHOWN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        'aria-label="A run of orch in a terminal">',
        "<style>",
        "svg { --back: #ffffff; --text: #24292f; --green: #116329; --red: #a40e26; --yellow: #7d4e00; --blue: #0550ae; --dim: #57606a; }",
        "@media (prefers-color-scheme: dark) { svg { --back: #161b22; --text: #e6edf3; --green: #56d364; --red: #ff7b72; "
        "--yellow: #e3b341; --blue: #79c0ff; --dim: #8b949e; } }",
        "text { font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: var(--text); white-space: pre; }",
        ".green { fill: var(--green); } .red { fill: var(--red); } .brown, .yellow { fill: var(--yellow); } "
        ".blue, .cyan { fill: var(--blue); } .brightblack { fill: var(--dim); } .bold { font-weight: bold; }",
        "g { visibility: hidden; }",
    ]
    for index in range(len(frames)):
        start = 100 * SHOWN * index / total
        end = 100 if index == len(frames) - 1 else 100 * SHOWN * (index + 1) / total
        until = "" if end == 100 else f" {end:.3f}%, 100% {{ visibility: hidden; }}"
        before = "" if index == 0 else "0% { visibility: hidden; } "
        out.append(f"@keyframes f{index} {{ {before}{start:.3f}% {{ visibility: visible; }}{until} }}")
        out.append(f"#f{index} {{ animation: f{index} {total:.1f}s step-end infinite; }}")
    out.append(f"@media (prefers-reduced-motion: reduce) {{ g {{ animation: none !important; }} #f{len(frames) - 1} {{ visibility: visible; }} }}")
    out.append("</style>")
    out.append(f'<rect width="{width:.0f}" height="{height}" rx="8" style="fill: var(--back); stroke: #8b949e"/>')
    for index, frame in enumerate(frames):
        out.append(f'<g id="f{index}">')
        for row, spans in enumerate(frame):
            for column, text, colour, is_bold in spans:
                kind = " ".join(filter(None, ["" if colour == "default" else colour, "bold" if is_bold else ""]))
                kind = f' class="{kind}"' if kind else ""
                left = len(text) - len(text.lstrip())
                x, y = MARGIN + (column + left) * CELL_WIDTH, MARGIN + (row + 1) * LINE_HEIGHT - 5
                length = len(text.strip()) * CELL_WIDTH
                out.append(
                    f'<text x="{x:.0f}" y="{y}" textLength="{length:.0f}"{kind}>{html.escape(text.strip())}</text>'
                )
        out.append("</g>")
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    pictures = thinned(record(sys.argv[2:]))
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(svg(pictures))
    print(f"{sys.argv[1]}: {len(pictures)} frames")
