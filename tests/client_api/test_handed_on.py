"""What the Client API hands on from the Server API, for its page."""

import asyncio

import httpx
from fastapi import FastAPI

from tokenstorm.client_api.page import ServerApi, server_routes

PAGE = b"<script>fetch('/api/v1/client-groups')</script>"


def test_an_engines_page_has_no_part_in_our_origin() -> None:
    """An engine is a stranger's program, and its answers come from the address of our page."""

    def engine(request: httpx.Request) -> httpx.Response:
        assert request.extensions["target"] == b"/api/v1/vllm/s1/v1/page"
        return httpx.Response(200, content=PAGE, headers={"content-type": "text/html"})

    async def answer() -> httpx.Response:
        app = FastAPI()
        async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as behind:
            app.include_router(server_routes(ServerApi("http://server", None, behind)))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as browser:
                return await browser.get("/server/api/v1/vllm/s1/v1/page")

    found = asyncio.run(answer())
    assert (found.status_code, found.content) == (200, PAGE)
    assert found.headers.get_list("content-security-policy") == ["sandbox"]
    assert found.headers["x-content-type-options"] == "nosniff"
