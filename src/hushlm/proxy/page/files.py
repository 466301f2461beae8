"""The page's files. They hold no secret, so that they are served without the API key, but only to the machine itself.

The content-security policy lets the page load, run and call nothing but what this proxy serves; no script and no style stands inside the
HTML file.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response

from hushlm.proxy.errors import ApiError

__all__ = ["POLICY", "page_file"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = ("index.html", "page.css", "icon.svg", "page.js", "stream.js", "view.js")

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def page_file(name: str) -> Response:
    """One file of the page, by its name.

    Raises:
        ApiError: 404, if the page has no such file.
    """
    if name not in _FILES:
        raise ApiError(404, "The page has no such file.", "unknown_url")
    content = files("hushlm.proxy.page").joinpath("static", name).read_bytes()
    return Response(content, headers={**_HEADERS, "content-type": f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"})
