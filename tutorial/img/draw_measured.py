#!/usr/bin/env python3
"""Draws what tutorial/measure prints as a picture.

    tutorial/measure | python3 tutorial/img/draw_measured.py >tutorial/img/measured.svg

That is what `tutorial/measure --write` does.
"""

import re
import sys
from svg import WIDTH, rect, show, svg, text

LEFT, LANE, ROW, BAR = 20, WIDTH - 40, 66, 23

# The row that is drawn, what is said of it, and its unit. Less is better in each.
DRAWN = [
    ('requests a second, SLEEP=0', 'time for 1,000 requests, nothing to wait for', 'ms'),
    ('CPU for each of these requests: microseconds', 'CPU for each of them', 'µs'),
    ('13 requests at once, SLEEP=1: ms beyond 2 s', '13 at once, beyond the ideal 2 s', 'ms'),
    ('a 404, 1,000 wait, 99th percentile: ms', 'a page while 1,000 wait, 99th percentile', 'ms'),
    ('memory, nobody waits: KB', 'memory while nobody waits', 'KB'),
    ('memory for each of 10,000 that wait: bytes', 'memory for each of 10,000 that wait', 'bytes'),
    ('begun for 50 that had left: worker-seconds', 'work begun for 50 that had left',
     'worker-seconds'),
]

rows = {}
for line in sys.stdin:
    name, *figures = re.split('  +', line.strip())
    if all(re.fullmatch(r'[\d,.]+', figure) for figure in figures[:2]):
        rows[name] = figures[:2]


# The figures of Rust and of Python, as they are printed.
def figures(name):
    if name not in rows:
        sys.exit(f'draw_measured.py: stdin has no figures for: {name}')
    if 'requests a second' in name:
        return [f'{1e6 / float(figure.replace(",", "")):,.1f}' for figure in rows[name]]
    return rows[name]


text(LEFT, 28, 'The whole bar is what Python needs, the blue is Rust', 'heading')
y = 60
for name, said, unit in DRAWN:
    rust, python = figures(name)
    share = float(rust.replace(',', '')) / float(python.replace(',', ''))
    width, top = min(share, 1) * LANE, y + 26
    text(LEFT, y + 10, said, 'heading')
    rect(LEFT, top, LANE, BAR, 'lane')
    if share:
        rect(LEFT, top, width, BAR, 'sleep')
    if width < LANE / 2:
        text(LEFT + width + 10, top + BAR / 2, f'{rust} of {python} {unit}', 'figures')
    else:
        text(LEFT + width - 10, top + BAR / 2, f'{rust} of {python} {unit}', 'right on-sleep')
    y += ROW

show(y + 4, 'The Rust server and the Python one, measured',
     'How much of what the Python server needs the Rust one needs, a bar for each kind of thing.')
