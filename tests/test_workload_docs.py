"""Each snippet of docs/workloads.md does what the page says, in the order in which it stands there."""

import re
import shlex
from pathlib import Path

from running import Run, Stage

PAGE = (Path(__file__).parents[1] / "docs" / "workloads.md").read_text()
FENCED = re.findall(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_a_user_who_follows_the_page_gets_what_it_says(stage: Stage) -> None:
    url = stage.truth(ttft=1, itl=0.1).url
    reports: list[str] = []
    for kind, name, text in FENCED:
        if name:
            (stage.folder / name).write_text(text)
        elif kind == "sh":
            run = Run(stage.folder / f"run{len(reports)}")
            words = [str(stage.folder / word) if word.startswith("log") else word for word in shlex.split(text)[1:]]
            ended = stage.command(*(url if word == "$URL" else word for word in words), "--run-dir", str(run.root))
            assert ended.code in (0, 3), ended
            assert run.summary["counts"]["succeeded"] == run.summary["counts"]["scheduled"]
            reports.append(ended.out)
        else:
            assert text in reports[-1]
    assert len(reports) == 5
    assert "(52.3% here)" in PAGE
    assert "52.3% of the prompt tokens would come from an ideal prefix cache" in reports[1]
