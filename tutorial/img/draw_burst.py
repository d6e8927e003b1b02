#!/usr/bin/env python3
"""Draws what run.sh prints as a picture.

    ./run.sh | python3 tutorial/img/draw_burst.py >tutorial/img/burst.svg

With --blocked, the requests sleep on the loop, which has one thread, and not
on the workers. That needs a MainHandler::get which calls core.get itself:

    TOKIO_WORKER_THREADS=1 SLEEP=1 ./run.sh |
        python3 tutorial/img/draw_burst.py --blocked >tutorial/img/blocked.svg
"""

import re
import sys
from svg import in_time, rect, show, svg, text

LEFT, LANE, ROW, BAR = 136, 594, 27, 23

blocked = '--blocked' in sys.argv
said = sys.stdin.read()
first = re.search(r'^(\d+) requests at once, (\d+) workers, (\S+) s of sleep:$', said, re.M)
last = re.search(r'^(\d+) answered, 0 failed, in (\S+) s$', said, re.M)
answers = re.findall(r'^ *(\d+)  [.#]* +200 +(\S+)$', said, re.M)
if not first or not last or len(answers) != int(last[1]):
    sys.exit('draw_burst.py: stdin has no burst in which each request was answered')
count, workers, sleep = int(first[1]), int(first[2]), float(first[3])
end = max(float(last[2]), 0.01)

# run.sh knows when each request was answered. It slept until then, and waited
# before. Which worker had it, nobody knows: here, the one that was free first.
free = [0.0] * (1 if blocked else workers)
waits, sleeps = [], []  # request, begin, end and lane of each bar
for request, answered in answers:
    lane = free.index(min(free))
    begin = max(float(answered) - sleep, free[lane])
    free[lane] = float(answered)
    sleeps.append((request, begin, free[lane], lane))
    if begin > end / 100:
        waits.append((request, 0.0, begin, len(waits)))


def place(seconds):
    return LEFT + seconds / end * LANE


drawn = []  # the bars, which come last: they appear in time


# Draws a heading and a lane for each name. Returns where it ends.
def section(y, kind, heading, names, bars):
    rect(LEFT, y + 9, 18, 18, kind)
    text(LEFT + 26, y + 18, heading, 'heading')
    y += 36
    for n, name in enumerate(names):
        rect(LEFT, y + n * ROW, LANE, BAR, 'lane')
        text(LEFT - 10, y + n * ROW + BAR / 2, name, 'right')
    drawn.extend((y + lane * ROW, kind, *bar) for *bar, lane in bars)
    return y + len(names) * ROW


text(20, 28, f'{count} requests at once, {first[3]} s of sleep each: {last[2]} s', 'heading')
y = section(46, 'wait', f'{len(waits)} wait for {"the loop" if blocked else "a worker"}',
            [f'in line {n + 1}' for n in range(len(waits))], waits)
if blocked:
    y = section(y, 'sleep', f'{count} sleep on the loop, one at a time', ['the loop'], sleeps)
    y = section(y, 'lane', f'{workers} workers have nothing to do', ['workers'], [])
else:
    y = section(y, 'sleep', f'{min(count, workers)} sleep at once, each on a worker',
                [f'worker {n + 1}' for n in range(workers)], sleeps)

step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 50, 500, 5000, 1e6) if end / s < 8)
for n in range(int(end / step) + 1):
    svg.append(f'<path d="M{place(n * step):.1f} {y}v8" class="tick"/>')
    text(place(n * step), y + 24, f'{n * step:g}' if n else '0 s', 'middle')

start = len(svg)
for top, kind, request, begin, to in drawn:
    x, width = place(begin), place(to) - place(begin)
    rect(x + 0.5, top, width - 1, BAR, kind)
    text(x + width / 2, top + BAR / 2, request, f'middle on-{kind}')
in_time(start, LEFT, LANE, y, seconds=8)

if blocked:
    title = f'{count} requests at once, on a blocked loop'
    desc = 'Each sleeps on the thread of the loop, and all the others wait for that.'
else:
    title = f'{count} requests at once, and {workers} workers'
    desc = f'{min(count, workers)} sleep at once. {len(waits)} wait until a worker is free.'
show(y + 44, title, desc)
