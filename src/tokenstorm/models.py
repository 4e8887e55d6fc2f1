"""msgspec structs in FastAPI: pydantic models of them check requests, and document requests and answers."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, wraps
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from fastapi import Response
from fastapi.datastructures import Default, DefaultPlaceholder
from fastapi.routing import APIRoute
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from tokenstorm.api.answer import SENT
from tokenstorm.errors import UsageError
from tokenstorm.load import make


class Strict(BaseModel):
    """Takes what is written and nothing else: no unknown fields, no text for numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Taken:
    """Makes a struct of an annotated parameter that is a request.

    Pydantic looks at its fields one by one; then the struct at how they fit together. `first` are the fields that the
    documentation lists first, `example` is a whole request.
    """

    def __init__(
        self, kind: type[msgspec.Struct], first: tuple[str, ...] = (), example: Mapping[str, object] | None = None
    ) -> None:
        self._kind = kind
        extra = {"json_schema_extra": {"examples": [example]}} if example else {}
        fields = _fields(kind, Strict)
        ordered: dict[str, Any] = {name: fields[name] for name in dict.fromkeys((*first, *fields))}
        self._model = create_model(
            kind.__name__, __base__=Strict, __doc__=kind.__doc__, __cls_kwargs__=extra, **ordered
        )

    def __get_pydantic_core_schema__(self, _kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._struct, handler.generate_schema(self._model))

    def _struct(self, checked: BaseModel) -> object:
        """Raises `ValidationError` for a field of the request itself, as pydantic does."""
        try:
            return make(checked.model_dump(), self._kind)
        except UsageError as error:
            field = (error.field or "").partition(".")[0].partition("[")[0]
            what = PydanticCustomError("value_error", "{text}", {"text": error.message})
            details = [InitErrorDetails(type=what, loc=(field,), input=None)]
            raise ValidationError.from_exception_data(self._kind.__name__, details) from None


class Whole(BaseModel):
    """An answer: all its fields are there, whether they have defaults for readers or not."""


_NONE_NAMED = Default(None)


class Documented(APIRoute):
    """A route whose answer is a struct: encoded as it is, and documented by its model."""

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, response_model: Any = _NONE_NAMED, **options: Any
    ) -> None:
        answer = inspect.signature(endpoint).return_annotation
        if isinstance(response_model, DefaultPlaceholder) and _is_answer(answer):
            response_model = _typed(answer, Whole)
            endpoint = _encoded(endpoint, options.get("status_code") or 200)
        super().__init__(path, endpoint, response_model=response_model, **options)


def _is_answer(kind: Any) -> bool:
    of = get_args(kind)[0] if get_origin(kind) is list else get_origin(kind) or kind
    return isinstance(of, type) and issubclass(of, msgspec.Struct)


def _encoded(endpoint: Callable[..., Awaitable[object]], status: int) -> Callable[..., Awaitable[Response]]:
    @wraps(endpoint)
    async def answer(*args: Any, **options: Any) -> Response:
        found = await endpoint(*args, **options)
        return Response(msgspec.json.encode(found), status, media_type="application/json")

    return answer


@cache
def model_of(kind: type[msgspec.Struct], base: type[BaseModel]) -> type[BaseModel]:
    """The model of a struct and of those in it; its name and its docstring are the struct's."""
    fields: dict[str, Any] = _fields(kind, base)
    own = get_origin(kind) or kind
    return create_model(own.__name__, __base__=base, __doc__=own.__doc__, **fields)


def _fields(kind: type[msgspec.Struct], base: type[BaseModel]) -> dict[str, tuple[Any, Any]]:
    """Type and default of each field."""
    return {field.name: (_typed(field.type, base), _default(field, base)) for field in msgspec.structs.fields(kind)}


def _default(field: msgspec.structs.FieldInfo, base: type[BaseModel]) -> Any:
    if field.default is UNSET:
        return Field(default_factory=UnsetType)  # it may be missing, and the documentation names no default
    if field.required or base is Whole:
        return ...
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return list(default) if isinstance(default, tuple) else default  # as its type is written here


def _typed(hint: Any, base: type[BaseModel]) -> Any:
    """A type of msgspec's as pydantic writes it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        sent = get_args(args[0])[0] if SENT in args else args[0]  # what it is beside None
        return Annotated[(_typed(sent, base), *map(_constraint, args[1:]))]
    if origin in {Union, UnionType}:
        return Union[tuple(_typed(arg, base) for arg in args if arg is not UnsetType)]  # noqa: UP007 - of as many as there are
    if origin in {tuple, list, Sequence}:  # of any length: JSON has lists
        return list[_typed(args[0], base)]  # type: ignore[misc]
    if origin is dict:
        return dict[_typed(args[0], base), _typed(args[1], base)]  # type: ignore[misc]
    if isinstance(struct := origin or hint, type) and issubclass(struct, msgspec.Struct):
        return model_of(hint, base)
    return hint


_SAME = ("gt", "ge", "lt", "le", "pattern", "min_length", "max_length", "description", "examples")


def _constraint(meta: Meta) -> FieldInfo:
    given = {name: value for name in _SAME if (value := getattr(meta, name)) is not None}
    found: FieldInfo = Field(**given, json_schema_extra=meta.extra_json_schema)
    return found


_FORM = re.compile(r"\w+\[.*\]|(?:[A-Z][a-z]+)+")
"""One of several forms of a field, as pydantic names it: `literal['constant','poisson']`, `Arrival`."""


def field_name(location: Sequence[object]) -> str:
    """`("body", "stages", 0, "rps")` as `stages.0.rps`. Which form of a field was tried is no part of its name."""
    first, *rest = location[1:] if len(location) > 1 else location
    return ".".join(map(str, (first, *(part for part in rest if not _FORM.fullmatch(str(part))))))
