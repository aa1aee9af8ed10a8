"""Pages of one file that need no network: templates, and images in them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from vlls._errors import needs

PIXELATED = 64  # images whose longer side is shorter are kept pixel by pixel, and shown so


def render(template: str, purpose: str, **values: Any) -> str:
    """Return the page of a template in this folder; ``purpose`` names the feature in an error if jinja2 is missing."""
    jinja2 = needs("jinja2", purpose)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return str(environment.get_template(template).render(**values))


def encoded(pixels: np.ndarray, longest: int, purpose: str, kind: str = "PNG") -> str:
    """Return base64 of an image file of pixels (H, W, C), uint8 with one or three channels, made smaller if need be."""
    image = needs("PIL.Image", purpose).fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.thumbnail((longest, longest))  # only ever makes it smaller
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 88}))
    return base64.b64encode(buffer.getvalue()).decode()


def data_uri(pixels: np.ndarray, longest: int, purpose: str) -> str:
    """Return an image as a data URI: small ones pixel by pixel, larger ones as JPEG."""
    kind = "PNG" if max(pixels.shape[:2]) < PIXELATED else "JPEG"
    return f"data:image/{kind.lower()};base64,{encoded(pixels, longest, purpose, kind)}"
