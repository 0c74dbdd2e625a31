"""The dataset card: README.md of a version, a datasheet for people and for the Hugging Face hub.

Equal facts give equal text. Nothing is said but what manifest and model cards hold, and what is true of every dataset
that facemint mints or curates. Its YAML lets `datasets` load the index from the version's folder.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.domain.licences import licence_of

_COLUMNS = {
    "label": "int64", "key": "string", "identity": "int64", "cell": "string", "segment": "string", "offset": "int64",
    "length": "int64",
}  # fmt: skip
"""What the index holds, as Hugging Face names types."""

TEMPLATE = "card.md.jinja"


def dataset_card(manifest_facts: Mapping[str, Any]) -> str:
    """Return README.md of a version.

    Args:
        manifest_facts: fields of the manifest:
            version, parent (None for the first), generation, name, digest, fingerprint;
            counts: `identities`, `images`, both also `_expected`, `identities_new`, `make`, and any other numbers;
            figures: optional `balance`, a list of {cell, asked, reached, share, share_95: [low, high],
                adjusted_share (or None)}, where the cell `all` alone means that none was asked for; optional
                `balance_fields`, the cells' attribute fields, and `balance_summary`, name -> figure; optional
                `thresholds`, filter -> fields; optional `rehearsal`, whether weights were made up; optional
                `variation`, what `pipeline.domain.variation.Tally.facts` gives per condition; optional
                `leakage`; anything else, however nested, is listed;
            models: role -> {name, licence, sha256, commercial_use, source}; a model in the role `generator` whose
                name holds `phantom` makes this a card of phantoms;
            spaces: role -> fields of a `Space`; calibrations: role -> {source, n_impostor, eer, lowest_fmr,
                largest_gallery (or None)};
            use: `purpose`, `commercial`, optional `licence`, optional `real_people`, with which `counts` has `inputs`
                and `sources`; licence: what is known of it;
            last_label: the highest label of the version; labels have gaps where somebody left;
            index: `name` and `bytes` of its file.

    Raises:
        jinja2.UndefinedError: a field is missing; a card with holes is not written.
    """
    figures = dict(manifest_facts.get("figures", {}))
    balance = [row for row in figures.pop("balance", []) if row["cell"] != "all"]
    fields = ", ".join(_plain(f) for f in figures.pop("balance_fields", []))
    summary = figures.pop("balance_summary", {})
    models = manifest_facts.get("models", {})
    real = bool(manifest_facts["use"].get("real_people"))
    leakage = figures.setdefault("leakage", "not measured")
    text: str = _template().render(
        manifest_facts,
        models=models,
        rehearsal=figures.pop("rehearsal", False),
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
        real_people=real,
        phantom="phantom" in str(models.get("generator", {}).get("name", "")),
        front=_front_matter(manifest_facts),
    )
    return text


@functools.cache
def _template() -> Any:
    """Return the card's template, compiled once."""
    import jinja2

    # the result is Markdown, not HTML: `plain` escapes what could break out of a table cell
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.adapters.card", ""),
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": _plain, "number": _number, "share": _share, "flat": _flat}
    environment.filters |= {"space": _space, "pairs": _pairs, "worst_cell": _worst_cell}
    return environment.get_template(TEMPLATE)


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
        **(licence_of(stated).hub if (stated := facts["use"].get("licence")) else {"license": "unknown"}),
        "task_categories": ["image-classification"],
        "tags": ["face-recognition", *([] if facts["use"].get("real_people") else ["synthetic"]), "webdataset"],
        "annotations_creators": [*(["found"] if facts["use"].get("real_people") else []), "machine-generated"],
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
    shown = {k: v for k, v in fields.items() if k not in ("epoch", "name") and not k.startswith("judges_")}
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
