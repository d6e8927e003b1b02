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

svg = []  # its elements, as they are drawn


def text(x, y, words, kind):
    svg.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>')


def rect(x, y, width, height, kind):
    svg.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" '
               f'height="{height}" rx="3" class="{kind}"/>')


# Prints the picture. The title and the description are for those who don't see it.
def show(height, title, desc):
    print(f'''<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"
  viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">
<title id="title">{title}</title>
<desc id="desc">{desc}</desc>
<style>{STYLE}</style>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="panel"/>''')
    print(*svg, '</svg>', sep='\n')
