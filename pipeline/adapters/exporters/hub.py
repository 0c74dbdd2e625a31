"""What the Hugging Face hub and its `datasets` library read: features in an arrow schema, a card's front matter.

Formats: `datasets.Features` as it is stored under the key `huggingface` of arrow metadata; the YAML block of a dataset
card (hub documentation, "Dataset cards"). Written without importing `datasets`, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from pipeline.domain.licences import licence_of

Licence = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,39}$")]
"""A licence by the hub's name for it, for example `cc-by-4.0`."""
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
PARQUET: Mapping[str, Any] = {
    "version": "2.6",
    "use_dictionary": False,
    "data_page_version": "1.0",
    "data_page_size": 1 << 20,
    "write_batch_size": 1024,
    "write_page_checksum": True,
    "store_schema": True,
}
"""Every writer setting that bytes depend on; the version of pyarrow that wrote a file stands in it too."""


Kind = str | tuple[str, ...]
"""What a column is: `Image`, `ClassLabel`, an arrow type's name such as `int64`, or the names of a struct's words."""


def schema_of(kinds: Mapping[str, Kind], names: Sequence[str] | None = None) -> Any:
    """Return an arrow schema that `datasets` reads back as features.

    Args:
        kinds: column -> `Image` (bytes and path), `ClassLabel`, an arrow type's name such as `int64`, or the names
            of words.
        names: of the classes, in the order of their labels; for ClassLabel.
    """
    import pyarrow as pa

    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    types: dict[Kind, Any] = {"Image": image, "ClassLabel": pa.int64(), "int64": pa.int64(), "string": pa.string()}
    features: dict[str, Any] = {}
    for column, kind in kinds.items():
        if kind == "Image":
            features[column] = {"_type": "Image"}
        elif kind == "ClassLabel":
            features[column] = {"names": list(names or ()), "_type": "ClassLabel"}
        elif isinstance(kind, tuple):
            features[column] = {name: {"dtype": "string", "_type": "Value"} for name in kind}
            types[kind] = pa.struct([pa.field(name, pa.string()) for name in kind])
        else:
            features[column] = {"dtype": kind, "_type": "Value"}
    known = json.dumps({"info": {"features": features}}, separators=(",", ":"))
    return pa.schema([pa.field(c, types[k]) for c, k in kinds.items()], metadata={"huggingface": known})


def features_yaml(kinds: Mapping[str, Kind], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the same features as a card states them."""
    known: dict[Kind, Any] = {"Image": "image"}
    known["ClassLabel"] = {"class_label": {"names": {str(n): name for n, name in enumerate(names or ())}}}
    return [
        {"name": column, "struct": [{"name": name, "dtype": "string"} for name in kind]}
        if isinstance(kind, tuple)
        else {"name": column, "dtype": known.get(kind, kind)}
        for column, kind in kinds.items()
    ]


def front_matter(
    head: Mapping[str, Any], licence: str, files: Any, features: Sequence[Mapping[str, Any]], sizes: tuple[int, int]
) -> str:
    """Return a card's YAML block, with its fences.

    Args:
        head: what the export's manifest begins with.
        licence: the hub's name of the licence; `unknown` for that of the dataset, where the head states one.
        files: where the split `train` lies, as `data_files` of the configuration; None to leave it to the loader.
        features: see `features_yaml`.
        sizes: bytes of the split, and bytes to download.
    """
    import yaml

    source, images = head["source"], head["num_images"]
    config: dict[str, Any] = {"config_name": "default"}
    if files is not None:
        config["data_files"] = [{"split": "train", "path": files}]
    split = {"name": "train", "num_bytes": sizes[0], "num_examples": images}
    info = {"features": list(features), "splits": [split], "download_size": sizes[1], "dataset_size": sizes[0]}
    front = {
        "pretty_name": f"{source['name']} {source['version']}",
        **_licence(licence, head.get("licence")),
        "task_categories": ["image-classification"],
        "tags": ["face-recognition", *([] if head.get("real_people") else ["synthetic"])],
        "annotations_creators": [*(["found"] if head.get("real_people") else []), "machine-generated"],
        "source_datasets": ["original"],
        "size_categories": [next((name for bound, name in _SIZES if images < bound), "n>1T")],
        "configs": [config],
        "dataset_info": info,
    }
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return f"---\n{text}---\n"


def _licence(licence: str, stated: str | None) -> dict[str, str]:
    return licence_of(stated).hub if licence == "unknown" and stated else {"license": licence}


def licence_line(head: Mapping[str, Any]) -> str:
    """Return what a card says of the licence: the export's own, or else that of the dataset."""
    licence = head["license"]
    if licence == "unknown" and head.get("licence"):
        return f"Licence: {head['licence']}."
    if licence == "unknown":
        return "No licence was stated when this was exported; set the export's `license` before you hand it on."
    return f"Licence: {licence}."
