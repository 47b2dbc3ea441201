"""Records what the image processor of Qwen-VL makes of images: qwen_vl_images.json.

Needs transformers 5.16 to 5.19 (vLLM 0.32 asks for those) and Pillow, no torch:
    pip install "transformers==5.19.0" pillow numpy && python qwen_vl_images.py > qwen_vl_images.json

`sizes`: [width, height, tokens] for each processor, tokens null where it refuses the image. Images of at most a megapixel go through
the processor as a whole; of larger ones, only the size. `files`: the same for image files, opened as vLLM opens them
(`open_image` and `normalize_image` in vllm/multimodal/image.py).
"""

import base64
import io
import json
import random

from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

PROCESSORS = [
    {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056},  # Qwen2-VL, Qwen2.5-VL
    {"patch_size": 16, "merge_size": 2, "min_pixels": 65536, "max_pixels": 16777216},  # Qwen3-VL
    {"patch_size": 14, "merge_size": 2, "min_pixels": 200704, "max_pixels": 401408},
    {"patch_size": 13, "merge_size": 3, "min_pixels": 1, "max_pixels": 100000},
]


def tokens(settings, width, height):
    size = {"shortest_edge": settings["min_pixels"], "longest_edge": settings["max_pixels"]}
    patch, merge = settings["patch_size"], settings["merge_size"]
    try:
        if width * height > 1 << 20:
            rows, columns = smart_resize(height, width, patch * merge, *size.values())
            return rows // patch * (columns // patch) // merge**2
        processor = Qwen2VLImageProcessorPil(size=size, patch_size=patch, merge_size=merge)
        [[frames, rows, columns]] = processor.preprocess([Image.new("RGB", (width, height))]).image_grid_thw
        assert frames == 1
        return int(rows * columns) // merge**2
    except ValueError as error:
        assert "aspect ratio" in str(error), error
        return None


def sizes():
    chosen = random.Random(1)
    side = lambda: max(1, int(2 ** chosen.uniform(0, 13.5)))
    near = [28, 32, 39, 56, 64, 14, 42, 70, 98, 48, 80, 112]
    pairs = [(side(), side()) for _ in range(120)]
    pairs += [(chosen.choice(near) * chosen.randint(1, 40) + chosen.randint(-1, 1), side()) for _ in range(40)]
    pairs += [(1, 1), (1, 200), (1, 201), (200, 1), (201, 1), (1000, 5), (1001, 5), (14, 14), (42, 14), (4032, 3024)]
    return pairs


def files():
    picture = Image.new("RGB", (90, 40), (200, 30, 60))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        "png": ("PNG", picture, {}),
        "png with a palette": ("PNG", picture.convert("P"), {}),
        "png with alpha, interlaced": ("PNG", picture.convert("RGBA"), {"interlace": 1}),
        "jpeg": ("JPEG", picture, {}),
        "progressive jpeg": ("JPEG", picture, {"progressive": True}),
        "gray jpeg": ("JPEG", picture.convert("L"), {}),
        "turned jpeg": ("JPEG", picture, {"exif": turned}),
        "lossy webp": ("WEBP", picture, {}),
        "lossless webp": ("WEBP", picture, {"lossless": True}),
        "webp with alpha": ("WEBP", Image.new("RGBA", (90, 40), (1, 2, 3, 4)), {}),
        "turned webp": ("WEBP", picture, {"exif": turned}),
        "gif": ("GIF", picture, {}),
    }
    for name, (kind, image, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        opened = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
        yield {
            "name": name,
            "base64": base64.b64encode(file.getvalue()).decode(),
            "tokens": [tokens(settings, *opened.size) for settings in PROCESSORS],
        }


def main():
    pairs = sizes()
    recorded = [settings | {"sizes": [[*pair, tokens(settings, *pair)] for pair in pairs]} for settings in PROCESSORS]
    lines = lambda items: "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"
    print('{"processors": ' + lines(recorded) + ', "files": ' + lines(files()) + "}")


main()
