"""Makes a thumbnail of an image with Pillow.

Event: {"image": <base64 of any image Pillow reads>, "width": 64, "height": 64}, all optional.
Without an image a test picture is drawn. Answers with the thumbnail as base64 of a PNG.
"""

import base64
import io

from PIL import Image, ImageDraw

# A small file can unpack to gigabytes of pixels. This many take about 100 MB as RGBA.
Image.MAX_IMAGE_PIXELS = 24_000_000
LARGEST_SIDE = 2048


def handler(event, context):
    event = event or {}
    size = (side(event, "width"), side(event, "height"))
    source = decode(event["image"]) if "image" in event else test_picture()
    original = source.size
    # The copy has the same aspect ratio and fits the box asked for.
    source.thumbnail(size)
    out = io.BytesIO()
    source.convert("RGBA").save(out, "PNG")
    return {
        "image": base64.b64encode(out.getvalue()).decode(),
        "format": "PNG",
        "original_size": list(original),
        "size": list(source.size),
        "bytes": out.tell(),
    }


def side(event, key):
    value = event.get(key, 64)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"{key} is {value!r}, expected a whole number from 1 to {LARGEST_SIDE}")
    return value


def decode(text):
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    # open() reads the header only and would let a bomb of up to twice the limit pass with a
    # warning: refuse it before a pixel is unpacked.
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"image of {image.width}x{image.height} pixels, at most {Image.MAX_IMAGE_PIXELS} are taken"
        )
    return image


def test_picture():
    picture = Image.new("RGB", (640, 480), "#102030")
    draw = ImageDraw.Draw(picture)
    for step in range(0, 240, 24):
        shade = 255 - step
        draw.rectangle((step, step, 639 - step, 479 - step), outline=(shade, 96, step), width=12)
    draw.ellipse((220, 140, 420, 340), fill="#ff7a1a")
    return picture
