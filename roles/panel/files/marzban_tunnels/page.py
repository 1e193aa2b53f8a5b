# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The page at ``{DASHBOARD_PATH}tunnels``, for either door: static files, which speak to the API as any client does.

The files are read once. Their addresses hold a digest of them all, so that a browser may keep them for ever and still
sees an upgrade, and no name from a request ever reaches the file system.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

DEFAULT_DASHBOARD_PATH = "/dashboard/"  # Marzban's
_FOLDER = Path(__file__).with_name("page")
_PAGE = "index.html"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}
_KINDS |= {".svg": "image/svg+xml", ".html": "text/html"}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page_router(dashboard_path: str, dashboard: bool = True) -> APIRouter:
    """The page and its files. ``dashboard`` says whether there is one at ``dashboard_path``, to be linked to."""
    files = {
        path.relative_to(_FOLDER).as_posix(): path.read_bytes()
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _KINDS and path.name != _PAGE
    }
    page = (_FOLDER / _PAGE).read_text(encoding="utf-8")
    release = _digest({**files, _PAGE: page.encode(), "dashboard": str(dashboard).encode()})
    page = page.replace("@release@", release).replace("@dashboard@", "yes" if dashboard else "no")
    tag = f'"{release}"'

    async def tunnels_page(request: Request) -> Response:
        headers = {**_HEADERS, "Cache-Control": "no-cache", "ETag": tag}
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(page, headers=headers, media_type="text/html")

    async def tunnels_page_file(version: str, name: str) -> Response:
        content = files.get(name)
        if version != release or content is None:
            raise HTTPException(404, "Not Found")
        headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        kind = _KINDS[name[name.rindex(".") :]]
        return Response(content, headers={**headers, "Content-Type": f"{kind}; charset=utf-8"})

    async def tunnels_page_slash() -> Response:
        return RedirectResponse("../tunnels", 308)  # relative: a proxy may have put something in front

    path = place(dashboard_path)
    router = APIRouter(include_in_schema=False)
    for route, endpoint in (
        (path, tunnels_page),
        (f"{path}/", tunnels_page_slash),
        (f"{path}/{{version}}/{{name:path}}", tunnels_page_file),
    ):
        router.add_api_route(route, endpoint, methods=["GET", "HEAD"], response_model=None)
    return router


def place(dashboard_path: str) -> str:
    """Where the page is: ``/dashboard``, ``dashboard/`` and ``/dashboard/`` give ``/dashboard/tunnels``."""
    inner = dashboard_path.strip("/")
    return f"/{inner}/tunnels" if inner else "/tunnels"


def _digest(files: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()[:16]
