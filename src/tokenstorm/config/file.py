"""`config.toml`: where work runs. Without a file there is one profile, `local`, which is this machine.

The file is `$TOKENSTORM_CONFIG`, or `config.toml` in the user's configuration folder. A key of the profile in use is
overridden by `TOKENSTORM_<KEY>` (`TOKENSTORM_ACCOUNT`, `TOKENSTORM_SSH_HOST`): the name of the key in capitals, a
table's name before it. An empty variable counts as none; a list has an item on each line, `environment` a NAME=VALUE.
"""

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import platformdirs
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tokenstorm.config.profile import Profile, Table
from tokenstorm.config.reasons import reason
from tokenstorm.errors import UsageError
from tokenstorm.runs import data_home

LOCAL = "local"
_PREFIX = "TOKENSTORM_"
_NOT_OF_A_PROFILE = frozenset(("name",))


@dataclass(frozen=True)
class Config:
    """What is configured. `file` is None when there is none; `home` holds this user's data."""

    home: Path
    file: Path | None = None
    default_profile: str = LOCAL
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names there are."""
        return tuple(sorted({LOCAL, *self.tables}))

    def profile(self, name: str | None = None) -> Profile:
        """A profile with its overrides; the default one without a name. Raises `UsageError`."""
        name = name or self.default_profile
        if name not in self.profiles:
            where = f" in {self.file}" if self.file else ""
            message = f"there is no profile {name!r}{where}: there is {', '.join(self.profiles)}"
            raise UsageError(message)
        table = _overridden(self.tables.get(name, {}), self.overrides)
        try:
            return Profile.model_validate(_with_defaults(name, table, self.home))
        except ValidationError as error:
            raise UsageError(self._explain(name, error.errors()[0])) from None

    def _explain(self, profile: str, error: ErrorDetails) -> str:
        path = [str(part) for part in error["loc"]]
        variable = _variable(path)
        if variable in self.overrides:
            return f"{variable}: {_reason(error)}"
        if error["type"] == "missing":
            where = f"in {self.file}, or {variable}," if self.file else f"or {variable},"
            return f"the profile {profile!r} needs `{path[0]}`: set profiles.{profile}.{path[0]} {where} to it"
        return f"{self.file or 'the environment'}: profiles.{'.'.join([profile, *path])}: {_reason(error)}"


def load_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file, if there is one, and the overrides. Raises `UsageError` naming the file and the key."""
    file = _file(environ)
    content = _read(file) if file else {}
    home = Path(environ["TOKENSTORM_HOME"]) if environ.get("TOKENSTORM_HOME") else data_home()
    tables = content.pop("profiles", {})
    default = content.pop("default_profile", LOCAL)
    if content:
        message = f"{file}: {next(iter(content))}: no such key; there is default_profile, profiles"
        raise UsageError(message)
    if not isinstance(default, str):
        message = f"{file}: default_profile: must be the name of a profile, not {default!r}"
        raise UsageError(message)
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        message = f"{file}: profiles: write each profile as a table of its own, [profiles.NAME]"
        raise UsageError(message)
    config = Config(
        home=home.absolute(),
        file=file,
        default_profile=environ.get(_PREFIX + "DEFAULT_PROFILE") or default,
        tables=tables,
        overrides={name: environ[name] for name in _overrides() if environ.get(name)},
    )
    for name, table in tables.items():
        _check(config, name, table)
    return config


def _check(config: Config, name: str, table: Mapping[str, Any]) -> None:
    """Every profile of the file is checked, used or not. What is missing may still come from an override."""
    if "name" in table:
        message = f"{config.file}: profiles.{name}.name: no such key; [profiles.NAME] names the profile"
        raise UsageError(message)
    try:
        Profile.model_validate(_with_defaults(name, table, config.home))
    except ValidationError as error:
        for found in error.errors():
            if found["type"] != "missing":
                path = ".".join([name, *(str(part) for part in found["loc"])])
                message = f"{config.file}: profiles.{path}: {_reason(found)}"
                raise UsageError(message) from None


def _file(environ: Mapping[str, str]) -> Path | None:
    """The file to read. One that was named has to be there."""
    if named := environ.get("TOKENSTORM_CONFIG"):
        return Path(named)
    usual = platformdirs.user_config_path("tokenstorm", appauthor=False) / "config.toml"
    return usual if usual.exists() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{file}: cannot read the configuration: {error.strerror}"
        raise UsageError(message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{file}: not TOML: {error}"
        raise UsageError(message) from None


def _with_defaults(name: str, table: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """What a profile has when it does not say."""
    given = dict(table)
    if name == LOCAL:
        given.setdefault("scheduler", "local")
    if given.get("scheduler") == "local":
        given = {"base_path": str(home), "python": sys.executable, **given}
    return {"python": "python3", **given, "name": name}


def keys_of(table: type[Table]) -> Iterator[tuple[str, ...]]:
    """The path of every key."""
    for name, info in table.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            yield from ((name, *rest) for rest in keys_of(info.annotation))
        elif name not in _NOT_OF_A_PROFILE:
            yield (name,)


def _variable(path: list[str] | tuple[str, ...]) -> str:
    return _PREFIX + "_".join(path).upper()


def _overrides() -> dict[str, tuple[str, ...]]:
    """The key of each variable."""
    return {_variable(path): path for path in keys_of(Profile)}


def _overridden(table: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    known = _overrides()
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    for variable, text in overrides.items():
        *above, key = known[variable]
        place = result
        for step in above:
            place = place.setdefault(step, {})
        place[key] = _value(known[variable], text)
    return result


def _value(path: tuple[str, ...], text: str) -> object:
    """The value of a list has an item on each line, that of a table a `NAME=VALUE`."""
    table: type[Table] = Profile
    for step in path[:-1]:
        table = _table(table, step)
    kind = get_origin(table.model_fields[path[-1]].annotation)
    if kind is tuple:
        return text.splitlines()
    if kind is Mapping:
        return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}
    return text


def _reason(error: ErrorDetails) -> str:
    """What is wrong with a key, and what there is instead."""
    if error["type"] != "extra_forbidden":
        return reason(error)
    table: type[Table] = Profile
    for step in error["loc"][:-1]:
        table = _table(table, str(step))
    return f"no such key; there is {', '.join(sorted(set(table.model_fields) - _NOT_OF_A_PROFILE))}"


def _table(table: type[Table], name: str) -> type[Table]:
    """The kind of table that a key of another is."""
    annotation = table.model_fields[name].annotation
    kinds: tuple[type, ...] = get_args(annotation) or (annotation,)
    return next(kind for kind in kinds if issubclass(kind, Table))
