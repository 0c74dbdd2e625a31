"""Facts about published weights, one row each: the table behind `model_cards`.

Digests and sizes are of files that were seen; None means that the file was not. Licences are those that publishers
state, with what weighs on them; where neither was seen, the row says so and commercial use counts as not allowed.
Hub commits are not known here: whoever fetches a file names the commit, and pins the digest that arrives.
"""

from __future__ import annotations

from typing import Any

_INSIGHTFACE = "InsightFace, non-commercial research"
_WEBFACE4M = "MIT; trained on WebFace4M, which is for non-commercial research"
_WEBFACE42M = "MIT; trained on WebFace42M, which is for non-commercial research"
_UNSEEN = "not seen here; read it where the weights are published"
_ARC2FACE: dict[str, Any] = {
    "repository": "FoivosPar/Arc2Face", "source": "https://huggingface.co/FoivosPar/Arc2Face",
    "licence": _WEBFACE42M, "commercial": False,
}  # fmt: skip
_VEC2FACE: dict[str, Any] = {
    "repository": "BooBooWu/Vec2Face", "source": "https://huggingface.co/BooBooWu/Vec2Face",
    "licence": _WEBFACE4M, "commercial": False, "form": "torch",
}  # fmt: skip
_VEC2FACE_PLUS: dict[str, Any] = {
    **_VEC2FACE, "repository": "BooBooWu/Vec2Face_plus", "source": "https://huggingface.co/BooBooWu/Vec2Face_plus",
}  # fmt: skip
_SD15: dict[str, Any] = {
    "repository": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "source": "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
    "licence": _UNSEEN, "commercial": False, "form": "safetensors",
}  # fmt: skip
_PACK: dict[str, Any] = {
    "source": "https://github.com/deepinsight/insightface (model zoo)", "licence": _INSIGHTFACE, "commercial": False,
}  # fmt: skip
_GENERATED_IN_SPACE = "vec2face-recogniser, raw (length about 21.9)"
_ARC_SPACE = "arc2face-recogniser, unit"
_RGB_HALF = "aligned 112 x 112 RGB, (x / 255 - 0.5) / 0.5"

ROWS: tuple[dict[str, Any], ...] = (
    # ------------------------------------------------------------------------------------------------ Vec2Face
    {
        **_VEC2FACE, "name": "vec2face", "what": "generator, 112 x 112, one pass", "space": _GENERATED_IN_SPACE,
        "file": "weights/vec2face_generator.pth", "preprocessing": "raw features, not scaled to unit length",
        "settings": {"sigma": {"0.3": 0.4, "0.5": 0.4, "0.7": 0.2}, "mask_rate": "mu 0.15, sigma 0.25, 0.1 to 1.0",
                     "section": "model_vec2face"},
    },
    {
        **_VEC2FACE, "name": "vec2face-recogniser", "what": "iResNet-100 that Vec2Face's vectors come from",
        "file": "weights/arcface-r100-glint360k.pth", "space": "vec2face-recogniser, raw", "preprocessing": _RGB_HALF,
        "settings": {"depth": 100, "bn_eps": 1e-5, "flip": False},
    },
    {
        **_VEC2FACE, "name": "vec2face-quality", "what": "iResNet-100 of MagFace whose norm is a face's quality",
        "file": "weights/magface-r100-glint360k.pth", "preprocessing": _RGB_HALF,
        "settings": {"depth": 100, "bn_eps": 1e-5, "target_norm": 27},
    },
    {
        **_VEC2FACE, "name": "vec2face-pose", "what": "6DRepNet: head pose, for attribute optimisation",
        "file": "weights/6DRepNet_300W_LP_AFLW2000.pth",
        "preprocessing": "RGB, 224 x 224, mean and deviation of ImageNet", "settings": {"size": "repvgg-b1g2"},
    },
    {
        **_VEC2FACE_PLUS, "name": "vec2face-plus", "what": "generator, 112 x 112, one pass",
        "file": "vec2face_plus/main_model.pth", "space": _GENERATED_IN_SPACE,
        "preprocessing": "raw features, not scaled to unit length",
        "settings": {"mask_rate": "mu 0.85, sigma 0.05, 0.8 to 0.9", "section": "model_vec2face"},
    },
    {
        **_VEC2FACE_PLUS, "name": "vec2face-plus-pose", "what": "low-rank weights and pose model of Vec2Face+",
        "file": "vec2face_plus/pose_model.pth", "space": _GENERATED_IN_SPACE,
        "preprocessing": "landmark picture 112 x 112 RGB, (x / 255 - 0.5) / 0.5",
        "settings": {"lora_r": 8, "lora_alpha": 32, "sections": ["model_vec2face", "pose_model"]},
    },
    # ------------------------------------------------------------------------------------------------ Arc2Face
    {
        **_ARC2FACE, "name": "arc2face-unet", "what": "UNet of Arc2Face, 512 x 512", "form": "safetensors",
        "file": "arc2face/diffusion_pytorch_model.safetensors", "space": _ARC_SPACE,
        "settings": {"steps": 25, "guidance": 3.0, "scheduler": "dpm-solver++"},
    },
    {
        **_ARC2FACE, "name": "arc2face-encoder", "what": "CLIP text model that identity vectors are put into",
        "form": "torch", "file": "encoder/pytorch_model.bin", "space": _ARC_SPACE,
        "preprocessing": "'photo of a id person', the vector takes the place of token 4",
    },
    {
        **_ARC2FACE, "name": "arc2face-recogniser", "what": "R100 of WebFace42M that Arc2Face's vectors come from",
        "form": "onnx", "file": "arcface.onnx", "space": "arc2face-recogniser, unit",
        "preprocessing": "aligned 112 x 112 RGB, (x - 127.5) / 127.5",
    },
    {
        **_ARC2FACE, "name": "arc2face-controlnet", "what": "ControlNet for pose", "form": "safetensors",
        "file": "controlnet/diffusion_pytorch_model.safetensors", "preprocessing": "EMOCA normal maps",
    },
    {
        **_ARC2FACE, "name": "arc2face-expression", "what": "adapter for 55 numbers of expression", "form": "torch",
        "file": "exp_adapter/exp_adapter.bin",
        "preprocessing": "50 FLAME expression, 2 eyelid, 3 jaw; zeros where there is no condition",
    },
    {
        **_ARC2FACE, "name": "arc2face-reference", "what": "low-rank weights of the reference adapter",
        "form": "safetensors", "file": "ref_adapter/pytorch_lora_weights.safetensors", "settings": {"scale": 0.8},
    },
    # ----------------------------------------------------------------------------------- Stable Diffusion 1.5
    {
        **_SD15, "name": "sd15-vae", "what": "image decoder of Stable Diffusion 1.5",
        "file": "vae/diffusion_pytorch_model.safetensors", "settings": {"scaling_factor": 0.18215},
    },
    {**_SD15, "name": "sd15-unet", "what": "UNet of Stable Diffusion 1.5",
     "file": "unet/diffusion_pytorch_model.safetensors"},
    {**_SD15, "name": "sd15-text-encoder", "what": "CLIP text model of Stable Diffusion 1.5",
     "file": "text_encoder/model.safetensors"},
    {
        "name": "lcm-lora", "what": "low-rank weights for 2 to 4 steps", "form": "safetensors",
        "repository": "latent-consistency/lcm-lora-sdv1-5", "file": "pytorch_lora_weights.safetensors",
        "source": "https://huggingface.co/latent-consistency/lcm-lora-sdv1-5", "licence": _UNSEEN, "commercial": False,
        "settings": {"steps": "2 to 4", "guidance": 1.0, "scheduler": "lcm"},
    },
    {
        "name": "taesd", "what": "small image decoder for Stable Diffusion 1.5", "form": "safetensors",
        "repository": "madebyollin/taesd", "source": "https://huggingface.co/madebyollin/taesd",
        "licence": _UNSEEN, "commercial": False,
    },
    {
        "name": "ip-adapter-faceid", "what": "IP-Adapter-FaceID for Stable Diffusion 1.5", "form": "torch",
        "repository": "h94/IP-Adapter-FaceID", "source": "https://huggingface.co/h94/IP-Adapter-FaceID",
        "licence": "code Apache-2.0; the FaceID weights are for non-commercial use", "commercial": False,
        "space": "buffalo-l-recogniser, unit", "preprocessing": "InsightFace's normed_embedding",
        "settings": {"steps": 30, "guidance": 7.5, "prompt": "best quality, high quality", "scale": 1.0,
                     "sections": ["image_proj", "ip_adapter"]},
    },
    # --------------------------------------------------------------------------------------------- recognisers
    {
        **_PACK, "name": "buffalo-l", "what": "SCRFD-10G detector and R50 of WebFace600K", "form": "pack",
        "space": "buffalo-l-recogniser, raw or unit", "preprocessing": "aligned 112 x 112 RGB, (x - 127.5) / 127.5",
    },
    {**_PACK, "name": "antelopev2", "what": "detector and R100 of Glint360K (glintr100.onnx)", "form": "pack",
     "space": "antelopev2-recogniser, raw or unit",
     "preprocessing": "aligned 112 x 112 RGB, (x - 127.5) / 127.5"},
    {
        **_PACK, "name": "w600k-mbf", "what": "MobileFaceNet of WebFace600K, in the packs buffalo_s and buffalo_sc",
        "form": "onnx", "preprocessing": "aligned 112 x 112 RGB, (x - 127.5) / 127.5",
        "sha256": "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    },
    {
        **_PACK, "name": "scrfd-500m", "what": "SCRFD-500M detector with 5 points, in the pack buffalo_sc",
        "form": "onnx", "size_bytes": 2_524_817,
        "sha256": "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
    },
    {
        **_PACK, "name": "insightface-genderage", "what": "perceived gender presentation and age", "form": "onnx",
        "preprocessing": "112 x 112 RGB, 0 to 255", "size_bytes": 1_109_201,
        "sha256": "ebbd66768654a64bcfe742bca446675cae62e2347be51bfa72417355c2246526",
    },
    {**_PACK, "name": "arcface-torch", "what": "iResNet-18, 34, 50, 100, 200 of the arcface_torch model zoo",
     "form": "torch", "preprocessing": _RGB_HALF, "settings": {"bn_eps": 1e-5}},
    {
        "name": "magface", "what": "iResNet whose norm is a face's quality", "form": "torch",
        "source": "MagFace's repository (files on Google Drive)", "licence": "Apache-2.0, as reported; not seen here",
        "commercial": False, "preprocessing": "aligned 112 x 112 BGR, x / 255",
        "settings": {"bn_eps": 2e-5, "norm": "10 to 40"},
    },
    {
        "name": "adaface", "what": "IR-50 and IR-101 in AdaFace's layout; the norm is a proxy of quality",
        "form": "torch", "source": "AdaFace's repository (files on Google Drive)", "licence": _UNSEEN,
        "commercial": False, "preprocessing": "aligned 112 x 112 BGR, (x / 255 - 0.5) / 0.5",
        "settings": {"layout": "adaface"},
    },
    {
        "name": "sface", "what": "SFace recogniser of OpenCV Zoo, 2021dec", "form": "onnx",
        "source": "https://github.com/opencv/opencv_zoo", "licence": _UNSEEN, "commercial": False,
        "sha256": "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    },
    {
        "name": "mobilefacenet-foamliu", "what": "MobileFaceNet, 128 numbers", "form": "onnx",
        "source": "https://github.com/foamliu/MobileFaceNet", "commercial": True, "size_bytes": 3_998_080,
        "licence": "Apache-2.0; trained on refined MS-Celeb-1M, which its publisher withdrew",
        "preprocessing": "aligned 112 x 112 RGB, mean and deviation of ImageNet",
        "sha256": "74c5a21f6fa4634dfb95ab6f21fcd5d9487500290c476d8df467713e21e5988a",
    },
    # ------------------------------------------------------------------------------------ detectors and measures
    {
        "name": "yunet", "what": "YuNet detector, 2023mar", "form": "onnx",
        "source": "https://github.com/opencv/opencv_zoo", "licence": "MIT", "commercial": True, "size_bytes": 232_589,
        "sha256": "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    },
    {
        "name": "lightqnet", "what": "LightQNet face quality, dm100", "form": "tensorflow",
        "source": "https://github.com/KaenChan/lightqnet", "licence": "MIT", "commercial": True,
        "preprocessing": "96 x 96 BGR, (x - 128) / 128, aligned by eyes and mouth centre", "size_bytes": 1_875_662,
        "sha256": "057b8ea2714953b70745934bcd7a927f4676a827a55509a2adc64e7282f836f3",
    },
    {
        "name": "ediffiqa-tiny", "what": "eDifFIQA(T) face quality, jun2024", "form": "onnx",
        "source": "https://github.com/opencv/opencv_zoo", "licence": "CC-BY-4.0", "commercial": True,
        "preprocessing": _RGB_HALF, "sha256": "9426c899cc0f01665240cb7d9e7f98e18e24e456c178326c771a43da289bfc6a",
    },
    {
        "name": "fairface", "what": "perceived race (7), gender presentation and age groups", "form": "torch",
        "source": "https://github.com/dchen236/FairFace", "licence": "CC-BY-4.0", "commercial": True,
        "preprocessing": "chip of 300 px with a quarter of padding, 224 x 224 RGB, mean and deviation of ImageNet",
        "settings": {"outputs": "race 0:7, gender 7:9, age 9:18; InsightFace's gender is the other way round"},
    },
)  # fmt: skip

__all__ = ["ROWS"]
