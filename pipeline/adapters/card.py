"""The dataset card: README.md of a version, a datasheet for people and for the Hugging Face hub.

Equal facts give equal text. Nothing is said but what manifest and model cards hold, and what is true of every dataset
that facemint mints. Its YAML lets `datasets` load the index from the version's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_COLUMNS = {
    "label": "int64", "key": "string", "identity": "int64", "cell": "string", "segment": "string", "offset": "int64",
    "length": "int64",
}  # fmt: skip
"""What the index holds, as Hugging Face names types."""

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

| version | grew from | generation | identities new in it | recipe fingerprint |
|---|---|---:|---:|---|
| {{ version }} | {{ parent or "nothing: the first" }} | {{ generation }} | {{ counts.identities_new | number }} \
| `{{ fingerprint[:16] }}` |

The sections are those of *Datasheets for Datasets* (Gebru et al.).

## Motivation

- Purpose, as its maker states it: {{ use.purpose | plain }}
- Made for commercial use: {{ "yes" if use.commercial else "no" }}
- Who made it, for whom, and who paid: not stated.

## Composition

Face images of identities that were sampled, not photographed, with labels 0 to {{ counts.identities - 1 }}, in one
split, `train`. Every JPEG is marked as generated (IPTC digital source type `trainedAlgorithmicMedia`).

- Personal data: none of real people. Likeness to real people (leakage): {{ leakage | plain }}.
- Asked for and reached: {{ counts.identities | number }} of {{ counts.identities_expected | number }} identities, \
{{ counts.images | number }} of {{ counts.images_expected | number }} images.
- Accepted although they missed the conditions asked of them, and marked `off_target`: \
{{ counts.make.off_target | number }} images.
{% if counts.twins is defined -%}
- Hard-condition twins: {{ counts.twins | number }} more images, made of accepted ones by covering or degrading their
  pixels. A twin has its parent's key with `-t01` and so on behind it, its label, and a row that says what was done
  (`conditions`, names that begin with `twin:`). No other figure counts them.
{% endif %}
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
{% if balance_summary -%}
Evenness over all cells: *effective cells* is the exponential of the shares' entropy, *parity* the smallest ratio of
share to target over the largest, *Cramer's V* how far two fields hang together, from 0 to 1.

| figure | value |
|---|---:|
{% for key, value in balance_summary.items() -%}
| {{ key | plain }} | {{ value | plain if value is string else value | number }} |
{% endfor %}
{% endif -%}
{%- else -%}
No balance over perceived attributes was asked for.
{% endif %}
{% if variation -%}
Variation, over images: *planned* is the share of the recipe's distribution, *asked* that of the images kept,
*delivered* what a measure reads in them; the deficit is planned less delivered, in points.

| condition | read by | bin | planned | asked | delivered | deficit | off target |
|---|---|---|---:|---:|---:|---:|---:|
{% for one in variation -%}
{% for row in one.bins -%}
| {{ one.condition | plain }} | {{ one.measure | plain }} | {{ row.bin | plain }} | {{ row.planned | share }} \
| {{ row.asked | share }} | {{ row.delivered | share }} | {{ "%.1f" | format(row.deficit_points) }} \
| {{ row.off_target | number }} |
{% endfor %}
{%- endfor %}
| condition | images | mean distance | correlation | largest deficit of a bin | in the worst cell \
| of an identity, median |
|---|---:|---:|---:|---:|---|---:|
{% for one in variation -%}
| {{ one.condition | plain }} | {{ one.images | number }} | {{ one.mean_absolute_error | number }} \
| {{ one.correlation | number }} | {{ one.largest_deficit_points | number }} | {{ one | worst_cell }} \
| {{ one.identities.deficit_points_median | default(None) | number }} |
{% endfor %}
{% endif -%}
{% if screened -%}
Leakage: how near images and templates come to the nearest face (*samples*) and the nearest person (*centroids*) of
{% for name, about in galleries.items() -%}
{{ name | plain }} ({{ about.faces | number }} faces of {{ about.people | number }} people, digest \
`{{ about.digest[:16] }}`, licence {{ about.licence | plain }}, lawful basis {{ about.lawful_basis | plain }}){{ \
"; " if not loop.last }}
{%- endfor %}. {{ refusing }};
the auditor only reports. *Control* is how near people come who are known not to be there.

| recogniser | compared | least flagged cosine | from | strangers flagged | flagged | p99 | p99.9 | largest \
| control p99 | p99.9 |
|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|
{% for role, what, row in screened -%}
| {{ role | plain }} | {{ what | plain }} | {{ row.threshold.cos | number }} | {{ row.threshold.origin | plain }} \
| {{ row.threshold.rate | share }} | {{ row.flagged | number }} of {{ row.n | number }} \
| {{ row["p99"] | number }} | {{ row["p99.9"] | number }} | {{ row.max | number }} \
| {{ row.control["p99"] | number }} | {{ row.control["p99.9"] | number }} |
{% endfor %}
{% endif -%}
## Collection process

Nothing was collected. Identity vectors were drawn from a bank, kept apart by exact greedy separation, and enrolled on
probe images. Each identity's images were generated under stratified conditions, then measured and judged as stored
JPEG. Equal recipe and seed give equal bytes on equal devices.

| part | model | space | licence | commercial use | SHA-256 |
|---|---|---|---|---|---|
{% for role, card in models.items() -%}
| {{ role | plain }} | {{ card.name | plain }} | {{ spaces[role] | space if role in spaces else "" }} \
| {{ card.licence | plain }} | {{ "yes" if card.commercial_use else "no" }} | `{{ card.sha256 }}` |
{% endfor %}
{% if sources -%}
Sources: {{ sources | join("; ") }}.

{% endif -%}
Thresholds are false match rates, turned into cosines by calibrations on labelled images:

| recogniser | calibrated on | impostor pairs | EER | lowest FMR measured | largest 1:N gallery |
|---|---|---:|---:|---:|---:|
{% for role, known in calibrations.items() -%}
| {{ role | plain }} | {{ known.source | plain }} | {{ known.n_impostor | number }} | {{ known.eer | number }} \
| {{ known.lowest_fmr | number }} | {{ known.largest_gallery | number }} |
{% endfor %}
## Preprocessing, cleaning, labelling

Every candidate, the refused too, has its numbers and verdicts in the segments. Labels are the identities that images
were made of; nobody annotated anything.

| count | value |
|---|---:|
{% for key, value in shown | flat -%}
| {{ key | plain }} | {{ value | number }} |
{% endfor %}
{% if thresholds -%}
| filter | thresholds |
|---|---|
{% for filter, fields in thresholds.items() -%}
| {{ filter | plain }} | {{ fields | pairs }} |
{% endfor %}
{% endif -%}
{% if others -%}
Cosines lie in [-1, 1]; FMR, FNMR and EER are those of ISO/IEC 19795-1. The *judge* decided what was kept; the
*auditor* is another recogniser, which decided nothing.

| figure | value |
|---|---:|
{% for key, value in others | flat -%}
| {{ key | plain }} | {{ value | number }} |
{% endfor %}
{%- else -%}
Similarity within and between identities: not measured.
{% endif %}
## Uses

Made to train and test face recognition. Not measured: the accuracy of a recogniser trained on it, realism, overlap
with benchmarks.

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
{% endif %}
Files of this version lie in `versions/{{ version }}/`: `{{ index.name }}` says which image has which label and where
its bytes are (`segment`, `offset`, `length`), `manifest.json` lists every file with its SHA-256, `croissant.json`
describes them to programs. Trainers read an export, for example WebDataset:

```python
import glob
import webdataset as wds

shards = sorted(glob.glob("exports/{{ version }}/webdataset/train-*.tar"))
samples = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
```

## Distribution

Licence: {{ licence | plain }}.

## Maintenance

A version never changes. The dataset grows by versions: labels stay, new identities come after the others. Who looks
after it: not stated.
"""


def dataset_card(manifest_facts: Mapping[str, Any]) -> str:
    """Return README.md of a version.

    Args:
        manifest_facts: fields of the manifest:
            version, parent (None for the first), generation, name, digest, fingerprint;
            counts: `identities`, `images`, both also `_expected`, `identities_new`, `make`, and any other numbers;
            figures: optional `balance`, a list of {cell, asked, reached, share, share_95: [low, high],
                adjusted_share (or None)}, where the cell `all` alone means that none was asked for; optional
                `balance_fields`, the cells' attribute fields, and `balance_summary`, name -> figure; optional
                `thresholds`, filter -> fields; optional
                `variation`, what `pipeline.domain.variation.Tally.facts` gives per condition; optional
                `leakage`; anything else, however nested, is listed;
            models: role -> {name, licence, sha256, commercial_use, source}; a model in the role `generator` whose
                name holds `phantom` makes this a card of phantoms;
            spaces: role -> fields of a `Space`; calibrations: role -> {source, n_impostor, eer, lowest_fmr,
                largest_gallery (or None)};
            use: `purpose`, `commercial`; licence: what is known of it; index: `name` and `bytes` of its file.

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
    environment.filters |= {"space": _space, "pairs": _pairs, "worst_cell": _worst_cell}
    figures = dict(manifest_facts.get("figures", {}))
    balance = [row for row in figures.pop("balance", []) if row["cell"] != "all"]
    fields = ", ".join(_plain(f) for f in figures.pop("balance_fields", []))
    summary = figures.pop("balance_summary", {})
    models = manifest_facts.get("models", {})
    leakage = figures.setdefault("leakage", "not measured")
    return environment.from_string(_TEMPLATE).render(
        manifest_facts,
        models=models,
        thresholds=figures.pop("thresholds", {}),
        leakage=_leakage_said(leakage, figures),
        **_screened(leakage),
        shown=_lengths(manifest_facts["counts"]),
        balance=balance,
        balance_summary=summary,
        variation=figures.pop("variation", []),
        fields=f": {fields}" if fields else "",
        others=figures,
        sources=[_plain(s) for s in dict.fromkeys(str(card.get("source", "")) for card in models.values()) if s],
        phantom="phantom" in str(models.get("generator", {}).get("name", "")),
        front=_front_matter(manifest_facts),
    )


def _leakage_said(leakage: Any, figures: dict[str, Any]) -> str:
    """Return the sentence on leakage; what has a place of its own in the card is taken out of the figures."""
    if isinstance(leakage, str):
        return str(figures.pop("leakage"))
    if "found" not in leakage:
        return "among the figures below"
    figures["leakage"] = {k: leakage[k] for k in ("copies",)}
    return "screened, see the table below"


_REFUSING = {
    (True, True): "What judge or screening recogniser flagged was refused",
    (True, False): "Whom judge or screening recogniser flagged was refused, images were not: no filter `leakage` does",
    (
        False,
        True,
    ): "Images that judge or screening recogniser flagged were refused; people were not, by `leakage.mode`",
    (False, False): "Nothing was refused: the recognisers observed",
}
"""Whether people were refused, and whether images were -> how the card says it."""


def _screened(leakage: Any) -> dict[str, Any]:
    """Return what the table of leakage shows; nothing where nothing was screened."""
    if isinstance(leakage, str) or "found" not in leakage:
        return {"screened": [], "galleries": {}, "refusing": ""}
    rows = [
        (role, what, {"control": {"p99": None, "p99.9": None}, **row})
        for role, told in sorted(leakage["found"].items())
        if isinstance(told["compared"], Mapping)
        for what, row in sorted(told["compared"].items())
    ]
    people = {name: about for name, about in leakage["galleries"].items() if name != "control"}
    refusing = _REFUSING[leakage["mode"] == "refuse", leakage.get("images_refused", True)]
    return {"screened": rows, "galleries": people, "refusing": refusing}


def _front_matter(facts: Mapping[str, Any]) -> str:
    import yaml

    counts, index = facts["counts"], facts["index"]
    rows = counts["images"] + counts.get("twins", 0)
    front = {
        "pretty_name": f"{facts['name']} {facts['version']}",
        # the hub's word where none was given
        "license": "unknown",
        "task_categories": ["image-classification"],
        "tags": ["face-recognition", "synthetic", "webdataset"],
        "annotations_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "size_categories": [_size_category(rows)],
        "configs": [
            {"config_name": "index", "default": True, "data_files": [{"split": "train", "path": index["name"]}]}
        ],
        "dataset_info": {
            "config_name": "index",
            "features": [{"name": name, "dtype": kind} for name, kind in _COLUMNS.items()],
            "splits": [{"name": "train", "num_bytes": index["bytes"], "num_examples": rows}],
        },
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


def _lengths(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts with the number of entries in place of those that grow with the dataset."""
    return {k: len(v) if k in ("identities_short", "units_quarantined") else v for k, v in counts.items()}


def _space(space: Mapping[str, Any]) -> str:
    return _plain(f"{space['name']}: {space['dimensions']} numbers, {space['norm']}, aligned {space['alignment']}")


def _worst_cell(variation: Mapping[str, Any]) -> str:
    """Return the cell in which a bin is short by most, with by how much."""
    read = [c for c in variation["cells"] if c["largest_deficit_points"] is not None]
    worst = max(read, key=lambda c: float(c["largest_deficit_points"]), default=None)
    return "" if worst is None else f"{_plain(worst['cell'])}: {worst['largest_deficit_points']:.1f}"


def _pairs(fields: Mapping[str, Any]) -> str:
    """Return a filter's thresholds in one cell, without what every filter has."""
    shown = {k: v for k, v in fields.items() if k not in ("epoch", "name", "judges_condition")}
    return ", ".join(f"{_plain(name)} {_number(value)}" for name, value in shown.items())


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
