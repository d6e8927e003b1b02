"""What the pictures share: their look, and how they are put together."""

WIDTH = 760

# The panel makes the picture readable on a page of any colour. Where the
# picture is small, as on a telephone, its letters are larger.
STYLE = '''
text { font: 16px system-ui, sans-serif; fill: #2d2f33; dominant-baseline: central }
.middle { text-anchor: middle } .right { text-anchor: end }
.panel { fill: #f7f5f0; stroke: #cfcabf } .tick { stroke: #a39d90 }
.lane { fill: #ebe7de } .wait { fill: #f0c36d } .sleep { fill: #2c6a98 }
text.on-sleep { fill: #fff } text.on-wait { fill: #2d2f33 }
@media (max-width: 520px) { text { font-size: 23px } }
@media (prefers-color-scheme: dark) {
  text { fill: #dcdfe5 }
  .panel { fill: #20252f; stroke: #454d5c } .tick { stroke: #6b7488 }
  .lane { fill: #2f3643 } .wait { fill: #dfae55 } .sleep { fill: #3577a6 }
}
'''

# What is in this group appears as time goes by: the clip opens from the left,
# with a line at its edge. It plays, rests on the finished picture, and plays
# again, since nobody may be there the first time. In print, and for those who
# want no motion, it is finished.
MOTION = '''
.now {{ fill: #c0392b; opacity: 0 }}
@media screen and (prefers-reduced-motion: no-preference) {{
  #past rect {{ transform-origin: {left}px 0; animation: past {cycle}s linear infinite }}
  .now {{ animation: now {cycle}s linear infinite }}
}}
@keyframes past {{ 0% {{ transform: scaleX(0) }} {played}%, 100% {{ transform: none }} }}
@keyframes now {{
  0% {{ opacity: 1 }} {played}% {{ opacity: 1; transform: translateX({width}px) }}
  {gone}%, 100% {{ opacity: 0; transform: translateX({width}px) }}
}}
'''

svg = []  # its elements, as they are drawn


def text(x, y, words, kind):
    svg.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>')


def rect(x, y, width, height, kind):
    svg.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" '
               f'height="{height}" rx="3" class="{kind}"/>')


# Lets what was drawn since `start` appear from `left` to `left + width`, in as
# many seconds as are to be played.
def in_time(start, left, width, height, seconds, rest=12):
    played = 100 * seconds / (seconds + rest)
    style = MOTION.format(left=left, width=width, cycle=f'{seconds + rest:g}',
                          played=f'{played:.1f}', gone=f'{played + 1:.1f}')
    svg.insert(start, f'<style>{style}</style>\n<clipPath id="past"><rect x="{left}" '
               f'width="{width}" height="{height}"/></clipPath>\n<g clip-path="url(#past)">')
    svg.append(f'</g>\n<rect x="{left}" y="46" width="2" height="{height - 46}" class="now"/>')


# Prints the picture. The title and the description are for those who don't see it.
def show(height, title, desc):
    print(f'''<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"
  viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">
<title id="title">{title}</title>
<desc id="desc">{desc}</desc>
<style>{STYLE}</style>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="panel"/>''')
    print(*svg, '</svg>', sep='\n')
