"""The review queue as a page: each line with its pictures, the words that decide, and where to write them.

One file without scripts from elsewhere; it lies under `private/` and shows real people.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>Review of {{ name }}</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
@media (prefers-color-scheme:dark){body{color:#eee;background:#161616}.line{border-color:#444}}
.line{display:flex;flex-wrap:wrap;gap:1rem;align-items:center;border-top:1px solid #ccc;padding:.8rem 0}
.faces{display:flex;gap:.3rem}img{width:96px;height:96px;border-radius:4px}
.face{outline:3px solid #b35c00}.about{flex:1;min-width:16rem}code{font-size:.9em}
</style></head><body>
<h1>Review of {{ name }}</h1>
<p>{{ items|length }} decisions lie near a threshold. Write a word into the column <code>decision</code> of
<code>{{ table }}</code>: <code>keep</code> or <code>refuse</code> for a face, <code>same</code> or <code>apart</code>
for two people; leave it empty where you agree. Give the table back with <code>--decisions</code>.
These are pictures of real people: this page is private.</p>
{% for item in items %}
<div class="line"><div class="faces">
{%- for jpeg in item.left -%}
<img class="{{ item.line.kind }}" alt="" src="data:image/jpeg;base64,{{ jpeg|b64 }}">
{%- endfor -%}
</div>{% if item.line.kind == "face" %}<span>among</span>{% else %}<span>and</span>{% endif %}<div class="faces">
{%- for jpeg in item.right -%}
<img alt="" src="data:image/jpeg;base64,{{ jpeg|b64 }}">
{%- endfor -%}
</div><div class="about"><strong>{{ item.line.now }}</strong> at {{ "%.3f"|format(item.line.value) }},
threshold {{ "%.3f"|format(item.line.threshold) }}<br>{{ item.line.kind }} <code>{{ item.line.id }}</code>
{%- if item.line.other %} and <code>{{ item.line.other }}</code>{% endif %}<br>{{ item.line.label }}</div></div>
{% endfor %}
</body></html>
"""


def review_page(name: str, items: Sequence[Any]) -> bytes:
    """Return the page.

    Args:
        name: the dataset's.
        items: with `line` (a `domain.review.Line`), `left` and `right` (JPEG).
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["b64"] = lambda data: base64.b64encode(data).decode("ascii")
    told = environment.from_string(_PAGE).render(name=name, items=items, table="private/review/gN.csv")
    return told.encode()
