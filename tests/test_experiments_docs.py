"""Each snippet of docs/experiments.md is a command that works, and the page says what its options do."""

import json
import re
import shlex
from pathlib import Path

from running import Stage

PAGE = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
HOW_MUCH = PAGE.partition("## How much can it carry?")[2].partition("\n## Is it steady?")[0]
SNIPPETS = re.findall(r"^```sh\n(.*?)^```$", HOW_MUCH, re.MULTILINE | re.DOTALL)


def test_a_user_who_asks_how_much_it_carries_gets_what_the_page_says(stage: Stage) -> None:
    """With shorter windows, against an engine that carries all that is allowed."""
    url, folder = stage.truth(ttft=1, itl=0.1).url, stage.folder / "series"
    search, sweep, resume = ([stand_for(word, url, folder) for word in shlex.split(text)[1:]] for text in SNIPPETS)
    ended = stage.command(*search, "--run-dir", str(stage.folder / "search"))
    assert ended.code == 0, ended
    assert "capacity: 40/s held, nothing failed at 90% of requests" in ended.out
    ended = stage.command(*sweep, "--run-dir", str(folder))
    assert ended.code == 0, ended
    assert "8 of 8 runs" in ended.out
    before = (folder / "series_summary.json").read_bytes()
    ended = stage.command(*resume)
    assert ended.code == 0, ended
    assert json.loads(before)["points"] == json.loads((folder / "series_summary.json").read_bytes())["points"]


def stand_for(word: str, url: str, folder: Path) -> str:
    """What the reader has in place of a word of a snippet."""
    return {"$URL": url, "$FOLDER": str(folder), "10": "1"}.get(word, word)
