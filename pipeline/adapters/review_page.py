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
:root{color-scheme:light dark;--ink:#1c1c1c;--soft:#555;--paper:#fff;--line:#ccc;--mark:#a34a00;--card:#f6f6f4}
@media (prefers-color-scheme:dark){:root{--ink:#eee;--soft:#b5b5b5;--paper:#161616;--line:#444;--mark:#ffa24d;
--card:#202020}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper);overflow-wrap:anywhere}
section{border:1px solid var(--line);border-radius:8px;background:var(--card);padding:.9rem 1rem;margin:1rem 0}
h2{font-size:1.1rem;margin:0 0 .6rem}
.sides{display:flex;flex-wrap:wrap;gap:1.6rem;align-items:flex-start}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft);margin-top:.3rem}
.faces{display:flex;flex-wrap:wrap;gap:.4rem}img{width:104px;height:104px;border-radius:4px;object-fit:cover}
.asked img{width:132px;height:132px;outline:4px solid var(--mark);outline-offset:-1px}
.asked figcaption{color:var(--mark);font-weight:600}
p.now{margin:.7rem 0 0}small{color:var(--soft)}code{font-size:.9em}.none{color:var(--soft)}
</style></head><body>
<h1>Review of {{ name }}</h1>
{% if items %}
<p>{{ items|length }} {{ "decision lies" if items|length == 1 else "decisions lie" }} near a threshold, or
{{ "was" if items|length == 1 else "were" }} made by somebody. Where you decide otherwise, write the word into the
column <code>decision</code> of <code>{{ table }}</code>, on the line with the id; leave it empty where you agree. Give
the table back with <code>--decisions</code>. These are pictures of real people: this page is private.</p>
{% else %}
<p>Nothing lies near a threshold: there is nothing to decide.</p>
{% endif %}
{% for item in items %}
{% set line = item.line %}
<section id="{{ line.kind }}-{{ line.id }}{% if line.other %}-{{ line.other }}{% endif %}">
{% if line.kind == "face" %}
<h2>Is this {{ item.names[0] }}?</h2>
<div class="sides">
<figure class="asked">{{ faces(item.left, "the face in question") }}<figcaption>this face</figcaption></figure>
<figure>{{ faces(item.right, "a face of " ~ item.names[0]) }}<figcaption>others of {{ item.names[0] }}</figcaption>
</figure></div>
{% else %}
<h2>Are these one person?</h2>
<div class="sides">
{% for side in (item.left, item.right) %}
<figure>{{ faces(side, "a face of " ~ item.names[loop.index0]) }}<figcaption>{{ item.names[loop.index0] }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
<p class="now"><strong>Now {{ "kept apart" if line.now == "apart" else line.now }}</strong>
{%- if line.value == line.value %}
, at a cosine of {{ "%.3f"|format(line.value) }} against {{ "%.3f"|format(line.threshold) }}{% endif %}.
{% if line.decision %}Somebody decided: <code>{{ line.decision }}</code>.{% else %}{{ otherwise[line.now]|safe }}
{% endif %}</p>
<small>{{ line.kind }} <code>{{ line.id }}</code>{% if line.other %} and <code>{{ line.other }}</code>{% endif %}
 &middot; {{ line.label }}</small>
</section>
{% endfor %}
</body></html>
"""
_FACES = """{% macro faces(pictures, what) %}
<div class="faces">{% for jpeg in pictures -%}
<img alt="{{ what }}" src="data:image/jpeg;base64,{{ jpeg|b64 }}">
{%- else %}<span class="none">no picture can be had</span>{% endfor %}</div>
{% endmacro %}"""
_OTHERWISE = {
    "kept": "If it is somebody else, write <code>refuse</code>.",
    "refused": "If it is, write <code>keep</code>.",
    "merged": "If they are two people, write <code>apart</code>.",
    "apart": "If they are, write <code>same</code>.",
    "dropped": "The smaller one gives way to the other. If they are one, write <code>same</code>; if they are two, "
    "<code>apart</code> keeps both.",
}


def review_page(name: str, items: Sequence[Any], table: str) -> bytes:
    """Return the page.

    Args:
        name: the dataset's.
        items: with `line` (a `domain.review.Line`), `left` and `right` (JPEG) and `names`.
        table: the path of the table in which decisions are written.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["b64"] = lambda data: base64.b64encode(data).decode("ascii")
    page = environment.from_string(_FACES + _PAGE)
    # a label from a file system may hold bytes that are no text
    return page.render(name=name, items=items, table=table, otherwise=_OTHERWISE).encode(errors="backslashreplace")
