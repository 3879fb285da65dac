"""The look of the reports: one page that stands alone, without anything from elsewhere."""

import html

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, sans-serif; color: #1d232b; background: #f5f6f8; margin: 0; }
main { max-width: 62rem; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
section { background: #fff; border: 1px solid #e3e6ea; border-radius: 10px; padding: 1.1rem 1.3rem; margin: 1rem 0; }
p { margin: .3rem 0 .8rem; color: #4a525c; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #d5d9df; font-weight: 600; }
tbody tr + tr td { border-top: 1px solid #eceff2; } small { color: #7b838d; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; } .card { flex: 1 1 9rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.2; } .two { display: grid; gap: 1.5rem; }
@media (min-width: 48rem) { .two { grid-template-columns: 1fr 1fr; } }
code { background: #eef0f3; border-radius: 4px; padding: .05rem .3rem; white-space: pre-wrap; }
tr.now td { background: #eef7f7; font-weight: 600; }
"""
PAGE_END = "</main></body></html>\n"


def page_start(title: str, style: str = "", head: str = "") -> str:
    """A page up to its title, to be followed by sections and PAGE_END.

    Args:
        style: CSS of this page's own.
        head: HTML of this page's own head, such as what it may load.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{head}<title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}{style}</style></head>\n'
        f"<body><main><h1>{html.escape(title)}</h1>\n"
    )
