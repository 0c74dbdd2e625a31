"""The table of components: slot and name as recipes say them -> where its options and its part are, as strings.

Nothing is imported here; the wiring imports an entry when a recipe is read or a part is built.
"""

from __future__ import annotations

from collections.abc import Mapping

PHANTOM = "pipeline.adapters.phantom"
SKETCH = "pipeline.adapters.sketch"
EXPORTERS = "pipeline.adapters.exporters"
TWINS = "pipeline.adapters.twins"
MEASURES = "pipeline.adapters.measures"
GENERATORS = "pipeline.adapters.generators"
SAMPLERS = "pipeline.adapters.samplers"
PHOTOGRAPHS = {
    "photographs": ("pipeline.domain.curation:PhotographsOptions", "pipeline.adapters.photographs:Photographs")
}
"""Stands for bank, sampler and generator of recipes of kind: curate, and can be named in no other."""
COMPONENTS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "identities.bank": {
        "phantom": (f"{PHANTOM}.bank:PhantomBankOptions", f"{PHANTOM}.bank:PhantomBank"),
        "sketch": (f"{SKETCH}:SketchBankOptions", f"{SKETCH}:SketchBank"),
        "file": ("pipeline.adapters.banks:FileBankOptions", "pipeline.adapters.banks:FileBank"),
        "space": ("pipeline.adapters.banks:SpaceBankOptions", "pipeline.adapters.banks:SpaceBank"),
        **PHOTOGRAPHS,
    },
    "identities.sampler": PHOTOGRAPHS
    | {
        name: (f"{SAMPLERS}.{name}:{name.title()}SamplerOptions", f"{SAMPLERS}.{name}:{name.title()}Sampler")
        for name in ("gaussian", "pca", "sphere", "packed", "files")
    },
    "identities.map": {
        "affine": ("pipeline.adapters.space_maps:AffineMapOptions", "pipeline.adapters.space_maps:AffineMap"),
    },
    "generator": PHOTOGRAPHS
    | {
        "phantom": (f"{PHANTOM}.generator:PhantomGeneratorOptions", f"{PHANTOM}.generator:PhantomGenerator"),
        "sketch": (f"{SKETCH}:SketchGeneratorOptions", f"{SKETCH}:SketchGenerator"),
        "sketch-scene": (f"{SKETCH}:SketchSceneOptions", f"{SKETCH}:SketchScene"),
        "vec2face": (f"{GENERATORS}.vec2face.options:Vec2FaceOptions", f"{GENERATORS}.vec2face.generator:Vec2Face"),
        "vec2face-plus": (
            f"{GENERATORS}.vec2face.options:Vec2FacePlusOptions",
            f"{GENERATORS}.vec2face.generator:Vec2FacePlus",
        ),
        "arc2face": (f"{GENERATORS}.arc2face:Arc2FaceOptions", f"{GENERATORS}.arc2face:Arc2Face"),
        "ip-adapter-faceid": (
            f"{GENERATORS}.ip_adapter_faceid:IpAdapterFaceIdOptions",
            f"{GENERATORS}.ip_adapter_faceid:IpAdapterFaceId",
        ),
    },
    "detector": {
        "scrfd": ("pipeline.adapters.onnx.scrfd:ScrfdOptions", "pipeline.adapters.onnx.scrfd:Scrfd"),
        "yunet": ("pipeline.adapters.onnx.yunet:YuNetOptions", "pipeline.adapters.onnx.yunet:YuNet"),
        "insightface": (
            "pipeline.adapters.onnx.insightface:InsightFaceDetectorOptions",
            "pipeline.adapters.onnx.insightface:InsightFaceDetector",
        ),
        "fixed": ("pipeline.adapters.fixed_points:FixedPointsOptions", "pipeline.adapters.fixed_points:FixedPoints"),
        "sketch": (f"{SKETCH}:SketchFinderOptions", f"{SKETCH}:SketchFinder"),
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
        for role in ("judge", "auditor", "screening", "conditioning")
    }
    | {
        "onnx": (
            "pipeline.adapters.onnx.recogniser:OnnxRecogniserOptions",
            "pipeline.adapters.onnx.recogniser:OnnxRecogniser",
        ),
        "insightface": (
            "pipeline.adapters.onnx.insightface:InsightFaceRecogniserOptions",
            "pipeline.adapters.onnx.insightface:InsightFaceRecogniser",
        ),
        "iresnet": (
            "pipeline.adapters.recognisers.iresnet:IResNetOptions",
            "pipeline.adapters.recognisers.iresnet:IResNetRecogniser",
        ),
    },
    "measures": {
        "sharpness": (
            "pipeline.adapters.measures.sharpness:SharpnessOptions",
            "pipeline.adapters.measures.sharpness:Sharpness",
        ),
        **{
            use: (f"{MEASURES}.{use.replace('-', '_')}:{part}Options", f"{MEASURES}.{use.replace('-', '_')}:{part}")
            for use, part in {
                "copy-hash": "CopyHash",
                "lighting": "Lighting",
                "natural-colour": "NaturalColour",
                "skin-tone": "SkinTone",
                "fairface": "FairFace",
            }.items()
        },
        "phantom-attributes": (
            f"{PHANTOM}.attributes:PhantomAttributesOptions",
            f"{PHANTOM}.attributes:PhantomAttributes",
        ),
        "lightqnet": (
            "pipeline.adapters.onnx.lightqnet:LightQNetOptions",
            "pipeline.adapters.onnx.lightqnet:LightQNet",
        ),
        "iresnet-norm": (
            "pipeline.adapters.recognisers.iresnet_norm:IResNetNormOptions",
            "pipeline.adapters.recognisers.iresnet_norm:IResNetNorm",
        ),
        "ediffiqa": ("pipeline.adapters.onnx.ediffiqa:EDifFIQAOptions", "pipeline.adapters.onnx.ediffiqa:EDifFIQA"),
        "insightface-genderage": (
            "pipeline.adapters.onnx.genderage:GenderAgeOptions",
            "pipeline.adapters.onnx.genderage:GenderAge",
        ),
        "sketch": (f"{SKETCH}:SketchMeasuresOptions", f"{SKETCH}:SketchMeasures"),
    },
    "filters": {
        "own-template": ("filters.own_template:Options", "filters.own_template:OwnTemplate"),
        "nearest-other": ("filters.nearest_other:Options", "filters.nearest_other:NearestOther"),
        "sharpness": ("filters.sharpness:Options", "filters.sharpness:Sharpness"),
        "condition": ("filters.condition:Options", "filters.condition:Condition"),
        "range": ("filters.range:Options", "filters.range:Range"),
        "leakage": ("filters.leakage:Options", "filters.leakage:Leakage"),
        "sibling-duplicate": ("filters.sibling_duplicate:Options", "filters.sibling_duplicate:SiblingDuplicate"),
        "sibling-spread": ("filters.sibling_spread:Options", "filters.sibling_spread:SiblingSpread"),
        "cell-agreement": ("filters.cell_agreement:Options", "filters.cell_agreement:CellAgreement"),
        "exposure": ("filters.exposure:Options", "filters.exposure:Exposure"),
        "dynamic-range": ("filters.dynamic_range:Options", "filters.dynamic_range:DynamicRange"),
        "pose": ("filters.pose:Options", "filters.pose:Pose"),
        "face-size": ("filters.face_size:Options", "filters.face_size:FaceSize"),
        "quality-percentile": ("filters.quality_percentile:Options", "filters.quality_percentile:QualityPercentile"),
        "apparent-minor": ("filters.apparent_minor:Options", "filters.apparent_minor:ApparentMinor"),
    },
    "sources": {
        name: (f"pipeline.adapters.sources.{module}:{options}", f"pipeline.adapters.sources.{module}:{part}")
        for name, module, options, part in (
            ("folder", "folders", "FolderOptions", "FolderSource"),
            ("webdataset", "tars", "TarOptions", "TarSource"),
            ("parquet", "tables", "TableOptions", "TableSource"),
            ("recordio", "recordio", "RecordIOSourceOptions", "RecordIOSource"),
            ("lmdb", "lmdb", "LmdbSourceOptions", "LmdbSource"),
        )
    },
    "twins": {
        name: (f"{TWINS}.{module}:{part}Options", f"{TWINS}.{module}:{part}")
        for name, module, part in (
            ("face-mask", "covering", "FaceMask"),
            ("sunglasses", "covering", "Sunglasses"),
            ("occluder", "covering", "Occluder"),
            ("low-resolution", "degrading", "LowResolution"),
            ("compression", "degrading", "Compression"),
            ("blur", "degrading", "Blur"),
            ("darkness", "degrading", "Darkness"),
        )
    },
    "encoding": {"jpeg": ("pipeline.adapters.codec:JpegOptions", "pipeline.adapters.codec:JpegCodec")},
    "exports": {
        name: (f"{EXPORTERS}.{module}:{part}Options", f"{EXPORTERS}.{module}:{part}Exporter")
        for name, module, part in (
            ("webdataset", "webdataset", "WebDataset"),
            ("recordio", "recordio", "RecordIO"),
            ("hf", "hf", "Hf"),
            ("imagefolder", "imagefolder", "ImageFolder"),
            ("lmdb", "lmdb_tree", "Lmdb"),
            ("pairs", "pairs", "Pairs"),
            ("cross-pairs", "cross_pairs", "CrossPairs"),
        )
    },
}
"""Slot -> name -> (options, part). The auditor takes what the judge takes."""
