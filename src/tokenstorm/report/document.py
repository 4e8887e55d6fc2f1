"""The frame of every page that needs nothing else: a report, a series, a comparison."""

from collections.abc import Sequence

from msgspec import json

from tokenstorm.report.assets import Assets, policy
from tokenstorm.report.figures import SIMULATED
from tokenstorm.report.markup import text


def document(
    title: str, parts: Sequence[str], assets: Assets, *, simulated: bool, drawn: tuple[str, object] | None
) -> str:
    """The page of a title (plain text) and its parts (markup). `drawn` is what its script draws: the id it is found by, and the data."""
    banner = f'<p class="simulated" role="note">{SIMULATED}</p>' if simulated else ""
    body = [banner, "<main>", *parts, "</main>"]
    if drawn is not None:
        where, data = drawn
        body.append(f'<script type="application/json" id="{where}">{_harmless(data)}</script>')
        body += [f"<script>{assets.library}</script>", f'<script type="module">{assets.script}</script>']
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(assets)}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{text(title)} · tokenstorm</title>\n<style>{assets.style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _harmless(data: object) -> str:
    """JSON that no HTML parser finds anything in."""
    return json.encode(data).decode().replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
