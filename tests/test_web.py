"""What every API says of a request that it cannot read."""

import asyncio

import httpx
import pytest
from pydantic import BaseModel, Field

from tokenstorm.errors import RunError, UsageError
from tokenstorm.web import new_app


class Asked(BaseModel):
    number: int = Field(ge=1)


def answered(body: bytes) -> httpx.Response:
    app = new_app("test", "", ready=lambda: None)

    @app.post("/asked")
    async def asked(request: Asked) -> int:
        return request.number

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post("/asked", content=body, headers={"content-type": "application/json"})

    return asyncio.run(main())


def test_a_body_that_is_no_json_is_told_with_the_place() -> None:
    answer = answered(b'{"number":1,')
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [{"field": "body", "message": "is not JSON from character 12 on"}]


@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}, {"host": "[::1"}, {"origin": "null"}])
def test_a_host_or_origin_that_makes_no_sense_is_foreign(headers: dict[str, str]) -> None:
    app = new_app("test", "", ready=lambda: None)

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/health", headers=headers)

    assert asyncio.run(main()).status_code == 403


def test_a_disk_that_is_full_is_told_in_its_own_words() -> None:
    app = new_app("test", "", ready=lambda: None)

    @app.get("/kept")
    async def kept() -> None:
        message = "the store cannot be written: is the disk full?"
        raise RunError(message)

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/kept")

    answer = asyncio.run(main())
    assert (answer.status_code, answer.json()["detail"]) == (507, "the store cannot be written: is the disk full?")


def test_a_field_that_is_wrong_is_told_by_its_name() -> None:
    answer = answered(b'{"number": 0}')
    assert [error["field"] for error in answer.json()["errors"]] == ["number"]
    assert answer.json()["detail"] == "number: must be at least 1"


@pytest.mark.parametrize(
    ("error", "detail", "errors"),
    [
        (UsageError("is in the past", "start_at"), "`start_at`: is in the past", [("start_at", "is in the past")]),
        (UsageError("must be 1", "stages.0.rps"), "`stages.0.rps`: must be 1", [("stages.0.rps", "must be 1")]),
        (UsageError("`prompt`: line 2 of a file says so"), "`prompt`: line 2 of a file says so", []),
    ],
)
def test_a_field_is_named_by_the_error_and_never_read_off_its_words(
    error: UsageError, detail: str, errors: list[tuple[str, str]]
) -> None:
    app = new_app("test", "", ready=lambda: None)

    @app.get("/wrong")
    async def wrong() -> None:
        raise error

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/wrong")

    answer = asyncio.run(main())
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)
    assert [(found["field"], found["message"]) for found in answer.json().get("errors", [])] == errors


@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")  # in fastapi-swagger
def test_the_documentation_of_an_api_that_wants_a_token_opens_without_it_and_asks_for_it_there() -> None:
    app = new_app("test", "", ready=lambda: None, token="secret")

    async def main() -> tuple[list[int], dict[str, object]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            paths = ("/docs", "/swagger/swagger-ui-bundle.js", "/swagger/swagger-ui.css", "/openapi.json", "/metrics")
            statuses = [(await client.get(path)).status_code for path in paths]
            return statuses, (await client.get("/openapi.json")).json()

    statuses, document = asyncio.run(main())
    assert statuses == [200, 200, 200, 200, 401]
    assert document["security"] == [{"token": []}]
