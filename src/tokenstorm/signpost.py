"""What a browser sees at `/` of the Server API and of the orchestrator: where the page is."""

from html import escape

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from tokenstorm.hosts import in_url

PAGE_PORT = 8003
"""Where the Client API listens when nobody says otherwise."""
_RULES = "default-src 'none'"


def add_signpost(app: FastAPI, page_port: int = PAGE_PORT) -> None:
    """Answer browsers at `/`; other callers get 404 as before."""

    @app.get("/", include_in_schema=False)
    async def where(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)
        page = f"{request.url.scheme}://{in_url(request.url.hostname or 'localhost')}:{page_port}/"
        return HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(app.title)}</title>'
            f"<h1>{escape(app.title)}</h1><p>Groups, charts and services are on the page of the Client API: "
            f'<a href="{escape(page)}">{escape(page)}</a>. What can be called here: <a href="/docs">/docs</a>.</p></html>',
            headers={"content-security-policy": _RULES},
        )
