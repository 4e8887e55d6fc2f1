"""Series of runs by the real command, against a simulated engine."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from modelled import Modelled
from running import Run, Stage, wait_for
from tokenstorm.simulator.settings import Settings

LOAD = ("--max-tokens", "4", "--drain", "5", "--num-clients", "20")


def summary_of(root: Path) -> dict[str, Any]:
    """series_summary.json as plain JSON."""
    found: dict[str, Any] = json.loads((root / "series_summary.json").read_bytes())
    return found


def test_a_sweep_leaves_a_whole_run_for_each_point_and_one_summary(stage: Stage) -> None:
    engine, root = stage.simulate(), stage.folder / "series"
    options = ("--sweep", "requests_per_second=10:40:log3", "--repeats", "2", "--duration", "1", "--run-dir", str(root))
    ended = stage.command("bench", engine.url, *options, "--seed", "3", *LOAD)
    assert (ended.code, ended.err) == (0, "")
    summary = summary_of(root)
    assert [point["number"] for point in summary["points"]] == [1, 2, 3, 4, 5, 6]
    assert (summary["outcome"], summary["of"]) == ("completed", 6)
    for block in (summary["points"][:3], summary["points"][3:]):
        assert sorted(point["values"]["requests_per_second"] for point in block) == [10, 20, 40]
    for point in summary["points"]:
        run = Run(root / "runs" / str(point["number"]))
        assert run.json("plan.json")["requests_per_second"] == point["values"]["requests_per_second"]
        assert run.summary["run_id"] == point["run_id"]
        assert run.summary["counts"]["succeeded"] == point["counts"]["succeeded"] > 0
    assert json.loads((root / "series.json").read_bytes())["series"]["repeats"] == 2
    assert "6 of 6 runs" in ended.out
    assert "20/s, repeat 2" in ended.out
    assert "random in blocks of 3, from seed 3" in ended.out
    again = stage.command("report", str(root))
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[:8] == ended.out[ended.out.index("series: ") :].splitlines()[:8]
    assert json.loads(stage.command("report", str(root), "--json").out) == summary
    assert b"TTFT against load" in (root / "report.html").read_bytes()
    assert (root / "runs/1/report.html").exists()
    refused = stage.command("report", str(root), "--format", "csv")
    assert refused.code == 2
    assert "name one of its runs" in refused.err


def test_a_series_that_was_killed_goes_on_where_it_was_and_runs_no_point_twice(stage: Stage) -> None:
    engine, root = stage.simulate(), stage.folder / "series"
    options = ("--sweep", "num_clients=1,2,3,4", "--duration", "1", "--run-dir", str(root), *LOAD[:4])
    process = stage.start("bench", engine.url, *options)
    wait_for(lambda: (root / "runs/3/results.0.2.jsonl").exists() or process.poll(), "the third run never began")
    process.kill()
    process.wait()
    before = {point["number"]: point["run_id"] for point in summary_of(root)["points"]}
    assert before.keys() == {1, 2}
    ended = stage.command("bench", "--resume", str(root), "--json")
    assert (ended.code, ended.err) == (0, "")
    after = {point["number"]: point["run_id"] for point in json.loads(ended.out)["points"]}
    assert after.keys() == {1, 2, 3, 4}
    assert {number: after[number] for number in before} == before
    assert (root / "runs/3.cut1").is_dir()


def test_a_signal_ends_a_series_in_order_and_the_load_generator_alone_goes_on_with_it(stage: Stage) -> None:
    engine, root = stage.simulate(), stage.folder / "series"
    options = ("--sweep", "num_clients=1,2,3", "--duration", "1", "--run-dir", str(root), *LOAD[:4])
    process = stage.start("bench", engine.url, *options)
    wait_for(lambda: (root / "runs/2/results.0.1.jsonl").exists() or process.poll(), "the second run never began")
    process.send_signal(signal.SIGTERM)
    ended = stage.ended(process)
    assert ended.code == 1
    assert "--resume" in ended.err
    assert "1 of 3 runs, stopped" in ended.out
    assert summary_of(root)["outcome"] == "cancelled"
    driver = stage.popen([sys.executable, "-m", "tokenstorm.loadgen", "series", str(root / "series.json")])
    assert driver.wait(60) == 0
    assert [point["number"] for point in summary_of(root)["points"]] == [1, 2, 3]


def test_a_search_finds_how_many_clients_a_service_carries(stage: Stage) -> None:
    """A step takes 25 ms and 2.5 more for each sequence; the model itself says how many clients keep the objective."""
    settings = Settings(step_base_ms=25, step_per_sequence_ms=2.5, step_per_prefill_token_ms=0, jitter_fraction=0)
    truth = Modelled(settings, prompt_tokens=10, output_tokens=12, tpot=0.05125).capacity("clients", 1, 64, 0.8)
    model = ("--step-base-ms", "25", "--step-per-sequence-ms", "2.5", "--step-per-prefill-token-ms", "0")
    engine, root = stage.simulate(*model, "--jitter-fraction", "0"), stage.folder / "series"
    options = ("--search", "clients=8", "--slo", "tpot=51.25ms", "--attain", "80%", "--duration", "1", "--drain", "5")
    load = ("--max-tokens", "12", "--ignore-eos", "--run-dir", str(root))
    ended = stage.command("bench", engine.url, *options, *load)
    assert (ended.code, ended.err) == (0, ""), ended
    found = summary_of(root)["capacity"]
    assert (found["held"], found["failed"], found["bound_by"]) == (truth, truth + 1, ["tpot_seconds"]), ended.out
    assert (found["ended"], found["sure"]) == ("found", True)
    assert len(summary_of(root)["points"]) <= 12
    assert f"capacity: {truth} clients held, {truth + 1} clients failed at 80%" in ended.out
    assert "bound by TPOT" in ended.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sweep", "num_clients"), "must look like FIELD=1,2,4"),
        (("--sweep", "nothing=1,2"), "`nothing` is no field that a series can vary"),
        (("--sweep", "num_clients=0,1"), "num_clients=0"),
        (("--sweep", "requests_per_second=8:1:log4"), "must rise"),
        (("--search", "requests_per_second"), "--search needs the objectives"),
        (("--search", "max_tokens", "--slo", "ttft=1"), "--search 'max_tokens' must look like"),
        (("--attain", "95%"), "--attain belongs to --search"),
        (("--cooldown", "1"), "--cooldown belongs to"),
        (("--search", "clients", "--slo", "ttft=1,share=9%", "--attain", "9%"), "leave one out"),
        (("--resume", "nowhere"), "leave URL out"),
        (("--sweep", "clients=1,2", "--fail-on", "suspect"), "is a bound of a single run, not of a series"),
        (("--sweep", "clients=1,2", "-o", "all.csv"), "is for the results of a single run"),
    ],
)
def test_what_makes_no_sense_of_a_series_is_said(stage: Stage, options: tuple[str, ...], said: str) -> None:
    ended = stage.command("bench", "http://127.0.0.1:1", *options)
    assert ended.code == 2
    assert said in ended.err


def test_a_series_whose_service_is_gone_says_so_and_keeps_what_it_has(stage: Stage) -> None:
    ended = stage.command("bench", "http://127.0.0.1:1", "--sweep", "num_clients=1,2", "--duration", "1")
    assert ended.code == 1
    assert "came to nothing twice" in ended.err
    assert "Traceback" not in ended.err
