"""The table of components: slot and name as recipes say them -> where its options and its part are, as strings.

Nothing is imported here; the wiring imports an entry when a recipe is read or a part is built.
"""

from __future__ import annotations

from collections.abc import Mapping

PHANTOM = "pipeline.adapters.phantom"
SKETCH = "pipeline.adapters.sketch"
EXPORTERS = "pipeline.adapters.exporters"
COMPONENTS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "identities.bank": {
        "phantom": (f"{PHANTOM}.bank:PhantomBankOptions", f"{PHANTOM}.bank:PhantomBank"),
        "sketch": (f"{SKETCH}:SketchBankOptions", f"{SKETCH}:SketchBank"),
    },
    "identities.sampler": {
        "gaussian": ("pipeline.adapters.samplers:GaussianSamplerOptions", "pipeline.adapters.samplers:GaussianSampler")
    },
    "generator": {
        "phantom": (f"{PHANTOM}.generator:PhantomGeneratorOptions", f"{PHANTOM}.generator:PhantomGenerator"),
        "sketch": (f"{SKETCH}:SketchGeneratorOptions", f"{SKETCH}:SketchGenerator"),
    },
    "judge": {
        f"phantom-{role}": (
            f"{PHANTOM}.recognisers:PhantomRecogniserOptions",
            f"{PHANTOM}.recognisers:PhantomRecogniser",
        )
        for role in ("judge", "auditor", "conditioning")
    }
    | {
        f"sketch-{role}": (f"{SKETCH}:SketchRecogniserOptions", f"{SKETCH}:SketchRecogniser")
        for role in ("judge", "auditor")
    },
    "measures": {
        "sharpness": (
            "pipeline.adapters.measures.sharpness:SharpnessOptions",
            "pipeline.adapters.measures.sharpness:Sharpness",
        ),
        "phantom-attributes": (
            f"{PHANTOM}.attributes:PhantomAttributesOptions",
            f"{PHANTOM}.attributes:PhantomAttributes",
        ),
        "sketch": (f"{SKETCH}:SketchMeasuresOptions", f"{SKETCH}:SketchMeasures"),
    },
    "filters": {
        "own-template": ("filters.own_template:Options", "filters.own_template:OwnTemplate"),
        "nearest-other": ("filters.nearest_other:Options", "filters.nearest_other:NearestOther"),
        "sharpness": ("filters.sharpness:Options", "filters.sharpness:Sharpness"),
        "condition": ("filters.condition:Options", "filters.condition:Condition"),
        "range": ("filters.range:Options", "filters.range:Range"),
    },
    "encoding": {"jpeg": ("pipeline.adapters.codec:JpegOptions", "pipeline.adapters.codec:JpegCodec")},
    "exports": {
        name: (f"{EXPORTERS}.{name}:{part}Options", f"{EXPORTERS}.{name}:{part}Exporter")
        for name, part in {
            "webdataset": "WebDataset",
            "recordio": "RecordIO",
            "hf": "Hf",
            "imagefolder": "ImageFolder",
        }.items()
    },
}
"""Slot -> name -> (options, part). The auditor takes what the judge takes."""
