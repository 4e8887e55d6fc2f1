"""The style and the script of the report: the chart modules of the page, joined into one inline module.

A page that opens from a disk cannot import files. So the modules are put one after the other, each in a block of its own;
what they export lies in one object. They may use the forms of `import` and `export` that `_IMPORT` and `_EXPORT` know.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import tokenstorm

BROWSER = Path(tokenstorm.__file__).parent / "browser"
ENTRY, SERIES_ENTRY, COMPARISON = "report/report.js", "report/series.js", "report/compare.js"
LIBRARY = "vendor/uPlot.js"
"""A classic script, which the chart modules find as `uPlot`."""
STYLES = ("vendor/uPlot.css", "charts/colors.css", "charts/charts.css", "report/report.css")
_IMPORT = re.compile(
    r"""^import\s*(?:(\w+)|\{([^}]*)\}|\*\s*as\s+(\w+))\s*from\s*["'](\.[^"']+)["'];?$""", re.MULTILINE
)
_EXPORT = re.compile(r"^export\s+(default\s+)?((?:async\s+)?(?:function\*?|const|let|class)\s+(\w+))", re.MULTILINE)
_EXPORTS = re.compile(r"export\s*\{([^}]*)\};?")
_NONE = "'none'"
_AS = re.compile(r"\s+as\s+")


@dataclass(frozen=True)
class Assets:
    """What goes into the page. Without the third-party files of the charts `script` is empty."""

    style: str
    library: str
    script: str


def read_series_assets() -> Assets:
    """The same of the page of a series."""
    return read_assets(entry=SERIES_ENTRY)


@cache
def read_assets(folder: Path = BROWSER, entry: str = ENTRY) -> Assets:
    """Read the files of this installation."""
    styles = [path.read_text(encoding="utf-8") for name in STYLES if (path := folder / name).is_file()]
    style = "\n".join(styles)
    try:
        return Assets(
            style, _closed((folder / LIBRARY).read_text(encoding="utf-8")), _closed(_Joined(folder).script(entry))
        )
    except FileNotFoundError:  # a checkout without scripts/setup, or a node of a cluster
        return Assets(style, "", "")


def policy(assets: Assets) -> str:
    """The content security policy: nothing from outside, and no style or script but these."""
    scripts = " ".join(_hash(script) for script in (assets.library, assets.script) if script)
    return (
        f"default-src 'none'; style-src {_hash(assets.style)}; script-src {scripts or _NONE}; "
        "base-uri 'none'; form-action 'none'"
    )


def _closed(script: str) -> str:
    """A script that a page can hold: in HTML it would end, or become a comment, where it reads so."""
    if "<!--" in script or "</script" in script.lower():
        message = "a module of the charts holds `<!--` or `</script`: write it in another way"
        raise ValueError(message)
    return script


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Joined:
    """Modules in the order in which they need each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blocks: dict[str, str] = {}

    def script(self, entry: str) -> str:
        """One module that does what `entry` does. Raises FileNotFoundError for a file that it needs."""
        self._add(entry)
        return "\n".join(["const modules = {};", *self._blocks.values()])

    def _add(self, name: str) -> None:
        if name in self._blocks:
            return
        text = (self._folder / name).read_text(encoding="utf-8")
        for match in _IMPORT.finditer(text):
            self._add(_beside(name, match[4]))
        body, exports = _without_exports(_IMPORT.sub(lambda match: _taken(match, name), text))
        self._blocks[name] = f'{{\n{body}\nmodules["{name}"] = {{ {", ".join(exports)} }};\n}}'


def _beside(name: str, where: str) -> str:
    """The module that another one names."""
    parts: list[str] = []
    for part in (PurePosixPath(name).parent / where).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def _taken(match: re.Match[str], name: str) -> str:
    default, named, everything, where = match.groups()
    source = f'modules["{_beside(name, where)}"]'
    if default:
        return f"const {default} = {source}.default;"
    return f"const {everything or '{ ' + _AS.sub(': ', named.strip()) + ' }'} = {source};"


def _without_exports(text: str) -> tuple[str, list[str]]:
    """A module's text as a block, and what it exported as the members of an object."""
    members = []
    for default, _, name in _EXPORT.findall(text):
        members.append(f"default: {name}" if default else name)
    for listed in _EXPORTS.findall(text):
        for one in filter(None, (part.strip() for part in listed.split(","))):
            inner, *outer = _AS.split(one)
            members.append(f"{outer[0]}: {inner}" if outer else inner)
    return _EXPORTS.sub("", _EXPORT.sub(lambda match: match[2], text)), members
