"""The page's styles and scripts: ours, and htmx and uPlot as their npm packages have them (`make ops-assets` renews them)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..cached import Cached, cached

_FOLDER = Path(__file__).parent.parent / "assets" / "ops"
_FILES = {
    "ops.css": "text/css",
    "ops.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "htmx/htmx.min.js": "text/javascript",
    "htmx/sse.min.js": "text/javascript",
    "uplot/uPlot.iife.min.js": "text/javascript",
    "uplot/uPlot.min.css": "text/css",
}
PATHS = tuple(f"/ops/assets/{name}" for name in _FILES)
"""For everybody: they are the same for all, and browsers ask for some of them without credentials."""


async def asset(request: Request) -> Response:
    """One of the files."""
    name = request.path_params["path"]
    if name not in _FILES:
        raise HTTPException(404)
    return _file(name).answer(request)


@cache
def _file(name: str) -> Cached:
    return cached((_FOLDER / name).read_bytes(), _FILES[name], X_Content_Type_Options="nosniff")
