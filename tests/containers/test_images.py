"""The images: their size, and that they contain everything that the processes need."""

from __future__ import annotations

import json

import pytest

from support.containers import CLIENT, TRITON, Engine

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
# Modules of extras that are not in the client's image, which neither builds nor runs models
OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "torch", "cuda", "amqtt", "apprise"}

_IMPORT = """
import importlib, json, pkgutil, tridetr
missing = set()
for module in pkgutil.walk_packages(tridetr.__path__, "tridetr.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing.add(error.name.partition(".")[0])
print(json.dumps(sorted(missing)))
"""
_USE = """
import fractions, io, json, ssl, zoneinfo, av, numpy, simplejpeg
from PIL import Image, ImageDraw, ImageFont
picture = Image.new("RGB", (64, 48))
ImageDraw.Draw(picture).text((4, 4), "x", font=ImageFont.load_default(12))
out = io.BytesIO()
picture.save(out, "JPEG")
pixels = simplejpeg.decode_jpeg(out.getvalue())
encoder = av.CodecContext.create("libx264", "w")
encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
encoder.time_base = fractions.Fraction(1, 15)
packets = encoder.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p"))
packets += encoder.encode(None)
decoder = av.CodecContext.create("h264", "r")
frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
print(json.dumps({
    "frames": len(frames),
    "inverse": float(numpy.linalg.inv(numpy.eye(3) * 2)[0, 0]),
    "authorities": len(ssl.create_default_context().get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")),
}))
"""


def python(engine: Engine, script: str) -> str:
    """Run a script in the client's image, with the same restrictions as in the compose file and the chart."""
    hardened = ("--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
    return engine.run("run", *hardened, "--entrypoint", "python3", CLIENT, "-c", script)


@pytest.mark.parametrize(("image", "most_mb"), [(CLIENT, 250), (TRITON, 900)])
def test_image_size_is_below_its_limit(images: Engine, image: str, most_mb: int) -> None:
    assert images.size_mb(image) <= most_mb


def test_the_client_image_lacks_only_optional_packages(images: Engine) -> None:
    assert set(json.loads(python(images, _IMPORT))) <= OPTIONAL


def test_video_pictures_certificates_and_time_zones_work(images: Engine) -> None:
    found = json.loads(python(images, _USE))
    assert found["authorities"] > 50
    assert {**found, "authorities": 0} == {
        "frames": 1, "inverse": 0.5, "authorities": 0, "zone": "Europe/Berlin",
    }  # fmt: skip
