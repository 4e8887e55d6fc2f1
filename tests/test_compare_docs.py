"""Each snippet of docs/experiments.md about steadiness and comparisons does what the page says."""

import re
import shlex
from pathlib import Path

from running import Stage

PAGE = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
WORSE = PAGE.partition("\n## Did it get worse?")[2]
SNIPPETS = re.findall(r"^```sh\n(.*?)^```$", WORSE, re.MULTILINE | re.DOTALL)


def test_a_user_who_asks_whether_it_got_worse_gets_what_the_page_says(stage: Stage) -> None:
    """With shorter windows, against an engine that stays as it is."""
    url, said = stage.truth(ttft=1, itl=0.1).url, []
    lines = [line for snippet in SNIPPETS for line in snippet.splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = {"$URL": url, "30": "1", "20": "40", "last": str(stage.folder / "after" / "runs" / "1")} | {
            name: str(stage.folder / name) for name in ("before", "after", "compare.md", "checks.xml")
        }
        ended = stage.command(*(words.get(word, word) for word in shlex.split(line)[1:]))
        assert ended.code in (0, 3, 4, 5), ended  # a machine in a hurry is at fault itself
        said.append(ended.out)
    compared, baselines = said[2], said[6]
    assert "nothing else differs" in compared
    assert "TTFT p99" in compared
    assert "nightly" in baselines
    assert 'name="error_rate&gt;1%"/>' in (stage.folder / "checks.xml").read_text()
    assert "against `baseline nightly`" in (stage.folder / "compare.md").read_text()
