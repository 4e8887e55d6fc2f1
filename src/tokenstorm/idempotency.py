"""The header Idempotency-Key: a request with the same key is carried out once, however often it is sent."""

from typing import Annotated

from fastapi import Header

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="The same request with the same key makes one, however often it is sent",
    ),
]
