"""The dataset card: README.md of a version, for people and the Hugging Face hub, from manifest numbers alone.

Equal manifests give equal text. Nothing is said that the manifest does not hold, except what is true of every
dataset that facemint mints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TEMPLATE = """\
---
{{ front }}---

# {{ name | plain }} {{ version }}

{% if phantom -%}
> **Test objects, not people.** These are phantoms: images of rendered heads, made by a model that saw rendered
> heads only. No real person's image took part. They test recognisers, filters and pipelines; a recogniser
> trained on them alone does not know human faces.

{% endif -%}
{{ counts.images | number }} images of {{ counts.identities | number }} synthetic identities.
Dataset digest (SHA-256 over the digests of segments and index): `{{ digest }}`

## What this is

Face images of identities that were sampled, not photographed, with labels 0 to {{ counts.identities - 1 }}.

- Purpose, as its maker states it: {{ use.purpose | plain }}
- Made for commercial use: {{ "yes" if use.commercial else "no" }}

| count | value |
|---|---:|
{% for key, value in counts | flat -%}
| {{ key | plain }} | {{ value | number }} |
{% endfor %}
## How it was made

Identity vectors were drawn from a bank, kept apart by exact greedy separation, and enrolled on probe images.
Each identity's images were generated under stratified conditions, then measured and judged as stored JPEG.
Every candidate, the refused too, has its numbers and verdicts in the segments. Equal recipe and seed give equal
bytes on equal devices.

| part | model | licence | commercial use | SHA-256 |
|---|---|---|---|---|
{% for role, card in models.items() -%}
| {{ role | plain }} | {{ card.name | plain }} | {{ card.licence | plain }} \
| {{ "yes" if card.commercial_use else "no" }} | `{{ card.sha256 }}` |
{% endfor %}
{% if sources -%}
Sources: {{ sources | join("; ") }}.

{% endif -%}
## Balance

{% if balance -%}
Shares are of identities. *Read* is what the attribute model estimates; *adjusted* is the share most consistent
with it, given how often that model mistakes one cell for another; the interval is Wilson's. Cells are
named by perceived attributes{{ fields }}.

| cell | asked | reached | read share | 95 % interval | adjusted share |
|---|---:|---:|---:|---:|---:|
{% for row in balance -%}
| {{ row.cell | plain }} | {{ row.asked | number }} | {{ row.reached | number }} | {{ row.share | share }} \
| {{ row.share_95[0] | share }} to {{ row.share_95[1] | share }} | {{ row.adjusted_share | share }} |
{% endfor %}
{%- else -%}
No balance over perceived attributes was asked for.
{% endif %}
## Similarity and other figures

{% if others -%}
Cosines lie in [-1, 1]; FMR, FNMR and EER are those of ISO/IEC 19795-1. The *judge* decided what was kept; the
*auditor* is another recogniser, which decided nothing.

| figure | value |
|---|---:|
{% for key, value in others | flat -%}
| {{ key | plain }} | {{ value | number }} |
{% endfor %}
{%- else -%}
The manifest holds none.
{% endif %}
## How to read it

Paths are below the dataset's root. `versions/{{ version }}/index-*.parquet` says which image has which label and
where its bytes lie (`segment`, `offset`, `length`); `versions/{{ version }}/manifest.json` lists every file with
its SHA-256. Trainers read an export, for example WebDataset:

```python
import glob
import webdataset as wds

shards = sorted(glob.glob("exports/{{ version }}/webdataset/train-*.tar"))
samples = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
```

## Limits

- Attributes are a model's estimates of appearance, made on probe images. They are not facts about a person,
  and their errors differ between cells.
- Identities are distinct at the thresholds above, under these recognisers and alignments; another recogniser
  may find two of them alike.
- Figures are measured on this version and say nothing of accuracy on real faces.
{% if phantom -%}
- Phantoms are test objects, not people: results on them do not carry over to human faces.
{% else -%}
- A generator trained on real faces can reproduce them; what was screened for stands among the figures above,
  and what is not listed there was not screened.
{% endif -%}
"""


def dataset_card(manifest_facts: Mapping[str, Any]) -> str:
    """Return README.md of a version.

    Args:
        manifest_facts: fields of the manifest:
            version, name, digest;
            counts: `identities`, `images` and any other numbers;
            figures: optional `balance`, a list of {cell, asked, reached, share, share_95: [low, high],
                adjusted_share (or None)}, where the cell `all` alone means that none was asked for; optional
                `balance_fields`, the cells' attribute fields; anything else, however nested, is listed;
            models: role -> {name, licence, sha256, commercial_use, source}; a model in the role `generator` whose
                name holds `phantom` makes this a card of phantoms;
            use: `purpose`, `commercial`.

    Raises:
        jinja2.UndefinedError: a field is missing; a card with holes is not written.
    """
    import jinja2

    # the result is Markdown, not HTML: `plain` escapes what could break out of a table cell
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": _plain, "number": _number, "share": _share, "flat": _flat}
    figures = dict(manifest_facts.get("figures", {}))
    balance = [row for row in figures.pop("balance", []) if row["cell"] != "all"]
    fields = ", ".join(_plain(f) for f in figures.pop("balance_fields", []))
    models = manifest_facts.get("models", {})
    context = {k: manifest_facts[k] for k in ("version", "name", "digest", "counts", "use") if k in manifest_facts}
    return environment.from_string(_TEMPLATE).render(
        context,
        models=models,
        balance=balance,
        fields=f": {fields}" if fields else "",
        others=figures,
        sources=[_plain(s) for s in dict.fromkeys(str(card.get("source", "")) for card in models.values()) if s],
        phantom="phantom" in str(models.get("generator", {}).get("name", "")),
        front=_front_matter(manifest_facts),
    )


def _front_matter(facts: Mapping[str, Any]) -> str:
    import yaml

    front = {
        "pretty_name": f"{facts['name']} {facts['version']}",
        "task_categories": ["image-classification"],
        "tags": ["face-recognition", "synthetic", "webdataset"],
        "annotations_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "size_categories": [_size_category(facts["counts"]["images"])],
    }
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True))


def _size_category(images: int) -> str:
    """Return the hub's name for a number of examples."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    larger = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
    return next((name for bound, name in bounds + larger if images < bound), "n>1B")


def _plain(value: Any) -> str:
    """Return text that stays inside its table cell and is not taken for markup."""
    text = " ".join(str(value).split())
    for mark in ("\\", "|", "`", "<", ">"):
        text = text.replace(mark, "\\" + mark)
    return text


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else _plain(value)


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf of nested mappings and lists."""
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            yield from _flat(inner, f"{prefix}{name}.")
    elif isinstance(tree, list | tuple):
        for number, inner in enumerate(tree):
            yield from _flat(inner, f"{prefix}{number}.")
    else:
        yield prefix.rstrip("."), tree
