"""`/openapi.json`, and `/docs`: a page that shows it and tries it out.

The page is Swagger UI as its npm package has it (assets/swagger-ui; `make swagger-ui` renews it), served from here: it works
offline, asks nobody else for anything, and its Content-Security-Policy holds it to that.
"""

from __future__ import annotations

import asyncio
from functools import cache, partial
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from perdure.agent import AgentConfig

from .cached import Cached, cached

_ASSETS = Path(__file__).parent / "assets"
_FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
    "/docs/swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
}
PATHS = ("/openapi.json", *_FILES)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing inline. Swagger UI has its pictures in data: addresses."""


def routes(config: AgentConfig) -> list[Route]:
    """The document, the page and what the page loads. Each is made when it is first asked for: most doors never are."""
    show = cache(partial(_document, config))

    async def openapi(request: Request) -> Response:
        document = await asyncio.to_thread(show)  # takes a third of a second, once
        return document.answer(request)

    return [Route("/openapi.json", openapi), *(Route(path, partial(_asset, path)) for path in _FILES)]


def _document(config: AgentConfig) -> Cached:
    from .openapi import document  # with all its types: not needed to serve

    return cached(orjson.dumps(document(config)), "application/json")


async def _asset(path: str, request: Request) -> Response:
    return _file(path).answer(request)


@cache
def _file(path: str) -> Cached:
    name, media_type = _FILES[path]
    policy = {"Content_Security_Policy": _POLICY, "X_Content_Type_Options": "nosniff"}
    return cached((_ASSETS / name).read_bytes(), media_type, **policy)
