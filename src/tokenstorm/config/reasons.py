"""What is wrong with a key of `config.toml` or a field of a request, in plain words instead of pydantic's."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

_SECRET = frozenset(("environment", "proxies"))
"""Their values may hold passwords, and are not shown."""

_TEXT = 'must be text in quotes, such as "x"'
_WHOLE = "must be a whole number, such as 4"
_NUMBER = "must be a number, such as 1.5"
_LIST = 'must be a list of texts, such as ["a", "b"]'
_TABLE = "must be a table, with keys of its own"
_WANTED: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "string_type": _TEXT,
    "path_type": _TEXT,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "finite_number": _NUMBER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "dict_type": _TABLE,
    "mapping_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "dataclass_type": _TABLE,
    "literal_error": lambda about: f"must be {about['expected']}",
    "greater_than": lambda about: f"must be more than {about['gt']}",
    "greater_than_equal": lambda about: f"must be at least {about['ge']}",
    "less_than": lambda about: f"must be less than {about['lt']}",
    "less_than_equal": lambda about: f"must be at most {about['le']}",
    "string_pattern_mismatch": lambda about: f"must have the form {about['pattern']}",
    "string_too_short": lambda about: f"must have at least {about['min_length']} letters",
    "string_too_long": lambda about: f"must have at most {about['max_length']} letters",
    "too_short": lambda about: (
        "must not be empty" if about["min_length"] == 1 else f"must have at least {about['min_length']} entries"
    ),
    "too_long": lambda about: f"must have at most {about['max_length']} entries",
}


_IN_JSON = {
    "extra_forbidden": "there is no such field: /docs lists those there are",
    "missing": "must be given",
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "must be an object, {…}"),
}


def reason(error: ErrorDetails) -> str:
    """What a value must be, and what it is, unless it may hold a secret. A `ValueError` of ours has its own words."""
    said = _wanted(error)
    own = "error" in error.get("ctx", {})
    return said if own or _SECRET & set(map(str, error["loc"])) else f"{said}, not {reprlib.repr(error['input'])}"


def reason_in_json(error: ErrorDetails) -> str:
    """What a field of a request must be. The value is not repeated: the reader sent it, and it may be a key."""
    return _IN_JSON.get(error["type"]) or _wanted(error)


def _wanted(error: ErrorDetails) -> str:
    about = error.get("ctx", {})
    if "error" in about:
        return str(about["error"])
    wanted = _WANTED.get(error["type"], error["msg"].replace("Input should be", "must be"))
    return wanted if isinstance(wanted, str) else wanted(about)
