"""The command line as a user meets it: what it prints, what it refuses and how, what it keeps to itself."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from running import TIMEOUT, Ended, Run, Stage, fetch, free_port, rank_pids, running_second, samples, wait_for
from tokenstorm.cli import main, parser
from tokenstorm.cli.examples import EXAMPLES
from tokenstorm.cli.panel import screen
from tokenstorm.options import plan_of

STEADY = ("--requests-per-second", "20", "--max-tokens", "4", "--drain", "10")
NOWHERE = "http://127.0.0.1:9"


def one_clear_message(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert len(ended.err) < 2000
    for word in words:
        assert word in ended.err, ended.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--speed", "9"], "--speed"),
        (["--num-client", "9"], "--num-client"),
        (["--num-clients", "many"], "--num-clients"),
        (["--num-clients", "0"], "--num-clients"),
        (["--num-clients", "-1"], "--num-clients"),
        (["--requests-per-second", "-3"], "--requests-per-second"),
        (["--requests-per-second", "nan"], "--requests-per-second"),
        (["--requests-per-second", "inf"], "--requests-per-second"),
        (["--requests-per-second", "0"], "--requests-per-second"),
        (["--duration", "0"], "--duration"),
        (["--warmup", "nan"], "--warmup"),
        (["--temperature", "3"], "temperature"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--arrival", "random"], "--arrival"),
        (["--arrival", "poisson"], "--requests-per-second"),
        (["--arrival", "poisson", "--burstiness", "2", "--requests-per-second", "5"], "burstiness"),
        (["--ramp", "fast"], "--ramp"),
        (["--ramp", ""], "--ramp"),
        (["--ramp", "1:2.3.4"], "--ramp"),
        (["--ramp", "0:0"], "from_rps"),
        (["--ramp", "1:5", "--requests-per-second", "5"], "--requests-per-second"),
        (["--ramp", "1:5", "--stages", "1x2"], "ramp"),
        (["--stages", "5x"], "--stages"),
        (["--stages", ""], "--stages"),
        (["--stages", "5x5", "--duration", "9"], "--duration"),
        (["--ranks", "20", "--num-clients", "2"], "ranks"),
        (["--synthetic-words", "some"], "--synthetic-words"),
        (["--synthetic-words", ""], "--synthetic-words"),
        (["--synthetic-words", "9:3"], "low"),
        (["--synthetic-tokens", "9"], "completions"),
        (["--prompt", ""], "--prompt"),
        (["--prompt", "a", "--prompts-file", "b"], "--prompts-file"),
        (["--prompts-file", "nowhere/prompts.txt"], "nowhere/prompts.txt"),
        (["--extra-body", "{"], "--extra-body"),
        (["--extra-body", "[]"], "--extra-body"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--seed", "-1"], "seed"),
        (["--prompt", "caf\udce9"], "UTF-8"),
        (["--model", "\udcff"], "UTF-8"),
        (["--run-dir", "caf\udce9"], "--run-dir"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_option(stage: Stage, options: list[str], named: str) -> None:
    one_clear_message(stage.command("bench", NOWHERE, *options), 2, named)
    assert not (stage.folder / "home").exists()


@pytest.mark.parametrize(
    "url",
    ["localhost", "ftp://host", "http://", "http://host:port", "http://h:99999", "http://h/?a=1"],
)
def test_a_url_that_is_none_is_exit_code_2_and_quoted(stage: Stage, url: str) -> None:
    one_clear_message(stage.command("bench", url), 2, repr(url))


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["bench", NOWHERE, "--durations", "3"], "there is no option --durations: did you mean --duration?"),
        (["bench", NOWHERE, "--qps=3"], "there is no option --qps"),
        (["gruop", "list"], "there is no 'gruop': did you mean group?"),
        (["group", "lst"], "there is no 'lst': did you mean list?"),
        (["group", "create", "--num-client", "3"], "did you mean --num-clients?"),
        (["bench", NOWHERE, "--duration", "3x"], "'3x' is no time: it looks like 30 (seconds), 500ms, 10s, 2m or 1h"),
    ],
)
def test_a_wrong_word_is_one_line_with_the_nearest_right_one(
    words: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert nearest in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_help_has_a_purpose_an_example_that_can_be_typed_and_the_exit_codes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.partition("\n\n")[2].strip()
    assert f"tokenstorm {EXAMPLES[name]}\n" in said
    assert "exit codes: 0 done" in said
    words = shlex.split(EXAMPLES[name].partition(" > ")[0])
    parser().parse_args(words)


def test_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    found = set()
    for words in ([], ["service"], ["group"], ["baseline"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        said = capsys.readouterr().out.partition("commands:" if not words else "actions:")[2].partition("example")[0]
        found |= {" ".join([*words, name]) for name in re.findall(r"^    (\w+) ", said, re.MULTILINE)}
    assert found - {"service", "group", "baseline", "COMMAND"} <= EXAMPLES.keys()


@pytest.mark.parametrize(
    ("typed", "documented"),
    [
        (["ls"], ["runs"]),
        (["ps"], ["group", "list"]),
        (["group", "ls"], ["group", "list"]),
        (["group", "rm", "3"], ["group", "delete", "3"]),
        (["service", "rm", "s1"], ["service", "stop", "s1"]),
        (
            ["bench", "h:1", "--rps", "5", "-c", "7", "-n", "9", "--duration", "2m", "--warmup", "500ms"],
            [
                "bench",
                "h:1",
                "--requests-per-second",
                "5",
                "--num-clients",
                "7",
                "--request-count",
                "9",
                "--duration",
                "120",
                "--warmup",
                "0.5",
            ],
        ),
    ],
)
def test_what_people_type_who_know_other_tools_means_what_they_mean(typed: list[str], documented: list[str]) -> None:
    found = [
        {name: value for name, value in vars(parser().parse_args(words)).items() if name != "run"}
        for words in (typed, documented)
    ]
    assert found[0] == found[1]


def test_a_host_and_a_port_need_no_scheme_and_a_rate_no_clients() -> None:
    plan = plan_of(parser().parse_args(["bench", "127.0.0.1:8000", "h:1/v1/chat/completions", "--rps", "3"]))
    assert [target.url for target in plan.targets] == ["http://127.0.0.1:8000", "http://h:1/v1/chat/completions"]
    assert plan.num_clients == 1000
    assert plan_of(parser().parse_args(["bench", "h:1"])).num_clients == 10


def test_no_command_and_no_url_are_wrong_usage(stage: Stage) -> None:
    one_clear_message(stage.command(), 2, "COMMAND")
    one_clear_message(stage.command("bench"), 2, "URL")


def test_a_refused_port_is_one_line_and_exit_code_1(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = stage.command("bench", url, *STEADY)
    one_clear_message(ended, 1, url, "refused")
    assert ended.err.count("\n") == 1


def test_an_unknown_model_is_told_in_the_engines_words(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    url = stage.simulate().url
    ended = stage.command("bench", url, "--model", "gpt-9", "--run-dir", str(run.root))
    one_clear_message(ended, 1, url, "404", "gpt-9")
    assert "Traceback" not in run.stderr
    one_clear_message(stage.command("report", str(run.root)), 1, "no result lines", "gpt-9")


def test_a_wrong_key_is_refused_with_the_option_that_gives_it(stage: Stage) -> None:
    url = stage.simulate("--api-key-env", "ENGINE_KEY", ENGINE_KEY="right").url
    one_clear_message(stage.command("bench", url, *STEADY), 1, "401", "--api-key-env")
    ended = stage.command("bench", url, *STEADY, "--api-key-env", "MY_KEY", MY_KEY="wrong")
    one_clear_message(ended, 1, "401")
    assert "wrong" not in ended.err.replace("wrong key", "")
    one_clear_message(stage.command("bench", url, *STEADY, "--api-key-env", "MY_KEY", MY_KEY="bad\n"), 2, "API key")


def test_a_run_directory_that_holds_a_run_is_left_alone(stage: Stage) -> None:
    run = stage.bench(stage.truth().url, *STEADY, "--duration", "0.5")
    before = {path.name: path.read_bytes() for path in run.root.iterdir()}
    ended = stage.command("bench", NOWHERE, "--run-dir", str(run.root))
    one_clear_message(ended, 1, str(run.root), "--run-dir")
    assert {path.name: path.read_bytes() for path in run.root.iterdir()} == before


def test_a_run_directory_that_cannot_be_written_is_named_with_the_way_out(stage: Stage) -> None:
    (stage.folder / "file").write_text("")
    for folder in (str(stage.folder / "file" / "run"), "/proc/no-such-folder/run"):
        one_clear_message(stage.command("bench", NOWHERE, "--run-dir", folder), 1, folder, "--run-dir")


def test_more_clients_than_open_files_is_told_with_the_way_out(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    process = stage.popen(
        [
            *(sys.executable, "-m", "tokenstorm", "bench", stage.truth().url, "--num-clients", "30000"),
            *("--ranks", "2", "--run-dir", str(run.root)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)),
    )
    one_clear_message(stage.ended(process), 1, "15000 clients", "ulimit -n", "ranks")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_client": 3}, ["num_client"]),
        ({"arrival": {"kind": "constant", "rate": 1}}, ["rate", "arrival"]),
        ({"requests_per_second": -1}, ["requests_per_second"]),
        ({"requests_per_second": "fast"}, ["requests_per_second"]),
        ({"tokenstorm": "9.0.0"}, ["9.0.0", "version"]),
        ({"schema": 2}, ["schema"]),
        ({"run_id": "../../etc"}, ["run_id"]),
        ({"targets": []}, ["targets"]),
        ({"targets": [{"replica": "0", "url": "localhost"}]}, ["localhost"]),
        ({"prompts": {"kind": "file", "path": "/nowhere.txt", "sha256": "0"}}, ["/nowhere.txt"]),
        ({"host": "192.0.2.1"}, ["host", "192.0.2.1"]),
        ({"launch": ["/nowhere/srun"]}, ["/nowhere/srun"]),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_naming_the_field(
    stage: Stage, change: dict[str, object], named: list[str]
) -> None:
    run = Run(stage.folder / "run")
    plan = stage.plan_file(run, **{"targets": [{"replica": "0", "url": NOWHERE}], **change})
    ended = stage.ended(stage.loadgen(plan))
    assert ended.code in {1, 2}
    one_clear_message(ended, ended.code, *named)
    assert ended.err.count("\n") == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"requests_per_second": NaN}', "\x00", "{}"])
def test_a_plan_that_is_no_plan_is_refused(stage: Stage, text: str) -> None:
    path = stage.folder / "plan.json"
    path.write_text(text)
    one_clear_message(stage.ended(stage.loadgen(path)), 2, str(path))


def test_a_plan_that_is_not_there_is_named(stage: Stage) -> None:
    one_clear_message(stage.ended(stage.loadgen(stage.folder / "no.json")), 2, "no.json", "No such file")


def test_a_folder_without_a_run_cannot_be_reported(stage: Stage) -> None:
    one_clear_message(stage.command("report", str(stage.folder)), 1, str(stage.folder), "plan.json")
    one_clear_message(stage.command("report", "0" * 32), 1, "0" * 32)
    (stage.folder / "summary.json").write_text("{}")
    one_clear_message(stage.command("report", str(stage.folder / "summary.json")), 2, "is a file", str(stage.folder))


def test_json_is_the_summary_alone_and_nothing_else_is_said(stage: Stage) -> None:
    ended = stage.command("bench", stage.simulate().url, *STEADY, "--duration", "1", "--json")
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads(ended.out)
    assert summary["counts"]["succeeded"] == 20
    (root,) = (stage.folder / "home" / "data" / "runs").iterdir()
    assert root.name == summary["run_id"]
    assert ended.out.encode() == (root / "summary.json").read_bytes()
    again = stage.command("report", summary["run_id"], "--json")
    assert (again.code, again.out) == (0, ended.out)


def test_a_run_leaves_its_page_and_is_had_in_every_format(stage: Stage) -> None:
    """By a name for all of them: one run is enough."""
    saved = stage.folder / "numbers.csv"
    load = ("--duration", "1", "--name", "the <night> run", "--label", "team=hpc", "-o", str(saved))
    ended = stage.command("bench", stage.simulate().url, *STEADY, *load)
    (root,) = (stage.folder / "home" / "data" / "runs").iterdir()
    page = (root / "report.html").read_text()
    assert ended.out.endswith(f"\nreport: {root / 'report.html'}\n")
    assert "<h1>the &lt;night&gt; run</h1>" in page
    assert "SIMULATED ENGINE" in page
    assert saved.read_text().count("\n") == 21

    (root / "report.html").unlink()
    again = stage.command("report", "last", "--format", "html")
    assert (again.code, again.out) == (0, f"{root / 'report.html'}\n")
    assert (root / "report.html").read_text() == page
    for form, begins in (
        ("text", "*** SIMULATED"),
        ("md", "### `the <night> run`"),
        ("hdr", "#[Histogram log"),
        ("json", "{"),
    ):
        assert stage.command("report", "last", "--format", form).out.startswith(begins)
    other = stage.folder / "other.md"
    assert stage.command("report", root.name[:8], "-o", str(other)).out == f"{other}\n"
    assert other.read_text() == stage.command("report", "last", "--format", "md").out
    one_clear_message(stage.command("report", "last", "--format", "parquet"), 2, "-o")
    one_clear_message(stage.command("report", "last", "-o", "numbers.xlsx"), 2, "xlsx", ".csv")

    listed = stage.command("runs").out.splitlines()
    assert listed[0].split()[:3] == ["RUN", "STARTED", "NAME"]
    row = rf"{root.name[:8]} +20\S+ \S+ +the <night> run +.* \(simulated\) +(valid|suspect) +20/20 +"
    assert re.match(row, listed[1])
    all_runs = json.loads(stage.command("runs", "--json").out)
    (only,) = all_runs["runs"]
    assert (all_runs["count"], only["run_id"], only["succeeded"]) == (1, root.name, 20)


def test_without_a_run_there_is_no_last_one(stage: Stage) -> None:
    one_clear_message(stage.command("report", "last"), 1, "no run", "tokenstorm bench")
    assert stage.command("runs").out.startswith("RUN ")


def test_the_text_says_simulated_and_shows_the_verdict(stage: Stage) -> None:
    ended = stage.command("bench", stage.simulate().url, *STEADY, "--duration", "1")
    assert ended.err == ""
    assert ended.out.startswith("*** SIMULATED ENGINE")
    assert "20 scheduled, 20 succeeded, 0 failed" in ended.out
    assert re.search(r"^verdict: (VALID|SUSPECT|INVALID)$", ended.out, re.MULTILINE)
    real = stage.command("bench", stage.truth().url, *STEADY, "--duration", "0.5")
    assert "SIMULATED" not in real.out


def test_an_invalid_verdict_is_exit_code_3(stage: Stage) -> None:
    ended = stage.command("bench", stage.truth(err500=0.4).url, *STEADY, "--duration", "1")
    assert (ended.code, ended.err) == (3, "")
    assert "verdict: INVALID" in ended.out


def test_a_terminal_without_room_sees_a_line_that_lives_and_keeps_the_last(stage: Stage) -> None:
    code, said = stage.on_a_terminal("bench", stage.truth().url, *STEADY, "--duration", "2.5", TERM="dumb")
    assert code in {0, 3}
    lines = said.split("\r\x1b[K")
    assert len(lines) >= 3
    assert "of 20 asked · answered" in lines[1]
    assert said.count("\n") == 1
    assert said.endswith("\n")


def test_a_terminal_sees_a_panel_that_stays_readable_with_failures_and_advice(stage: Stage) -> None:
    """Each answer takes 300 ms, so 20 a second need 6 clients; there are 2."""
    url = stage.truth(ttft=300, err500=0.3).url
    load = ("--requests-per-second", "20", "--num-clients", "2", "--duration", "2.5", "--drain", "1")
    code, said = stage.on_a_terminal("bench", url, *load, TERM="xterm", NO_COLOR="1")
    assert code == 3
    last = said.rpartition("╭")[2]
    assert "finished" in last
    assert "failed (" in last
    assert "http_500" in last
    assert "every client was busy" in last
    assert "clients; num_clients is 2" in said
    assert "\x1b[31m" not in said
    assert said.rstrip().endswith(("╯", "╯\r\n\x1b[?25h", "\x1b[?25h"))


def test_a_log_gets_a_line_each_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with screen() as shown:
        for now in (1.0, 9.0, 10.5, 11.0, 19.0, 20.6):
            shown.say(f"at {now}")
    assert capsys.readouterr().err == "at 10.5\nat 20.6\n"


def test_a_terminal_sees_what_is_waited_for_when_many_connections_are_opened(stage: Stage) -> None:
    url = stage.truth(ttft=1).url
    options = ("--num-clients", "1100", "--ranks", "1", "--request-count", "1100", "--max-tokens", "1")
    code, said = stage.on_a_terminal("bench", url, *options, TERM="dumb")
    assert code in {0, 3}
    assert "opening 1100 connections" in said.split("\x1b[K")[1]


def test_the_api_key_is_on_no_command_line_and_in_no_file(stage: Stage) -> None:
    key = "sk-a-very-secret-key"
    url = stage.simulate("--api-key-env", "ENGINE_KEY", "--error-500", "0.3", "--seed", "3", ENGINE_KEY=key).url
    run = Run(stage.folder / "run")
    options = (*STEADY, "--duration", "2", "--ranks", "2", "--api-key-env", "MY_KEY", "--run-dir", str(run.root))
    process = stage.start("bench", url, *options, MY_KEY=key)
    running_second(run, process)
    for pid in (process.pid, *rank_pids(process.pid)):
        assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ended = stage.ended(process)
    assert run.summary["counts"]["succeeded"] > 0
    assert key not in ended.out + ended.err
    for path in run.root.iterdir():
        assert key.encode() not in path.read_bytes(), path.name


def test_a_pipe_that_is_closed_early_is_no_traceback(stage: Stage) -> None:
    run = stage.bench(stage.truth().url, *STEADY, "--duration", "0.5")
    command = f"'{sys.executable}' -m tokenstorm report '{run.root}' --json | head -c 0"
    process = stage.popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert stage.ended(process).err == ""


class Port:
    """A run that goes on, and its launcher's port."""

    def __init__(self, stage: Stage) -> None:
        self.run = Run(stage.folder / "run")
        self.secret = "the-launchers-secret"
        targets = [{"replica": "0", "url": stage.truth(err500=0.3).url}]
        plan = stage.plan_file(self.run, targets=targets, group_id=7, duration_seconds=60, ranks=2)
        (self.run.root / "secrets.json").write_text(json.dumps({"launcher": self.secret}))
        self.process = stage.loadgen(plan)
        running_second(self.run, self.process, 2)
        self.url = self.run.json("address.json")["url"]

    def get(self, path: str) -> bytes:
        status, body, _ = fetch(f"{self.url}{path}", secret=self.secret)
        assert status == 200
        return body


@pytest.fixture
def port(stage: Stage) -> Callable[[], Port]:
    return lambda: Port(stage)


def test_the_launchers_port_answers_nobody_without_the_secret(port: Callable[[], Port]) -> None:
    launcher = port()
    for path in ("/status", "/metrics", "/timeline", "/rank", "/", "/control"):
        assert fetch(f"{launcher.url}{path}")[0] == 401
        assert fetch(f"{launcher.url}{path}", secret="guess")[0] == 401
    assert fetch(f"{launcher.url}/control", body=b"stop")[0] == 401
    assert fetch(f"{launcher.url}/nothing", secret=launcher.secret)[0] == 404
    assert fetch(f"{launcher.url}/control", secret=launcher.secret, body=b"dance")[0] == 422
    assert launcher.process.poll() is None
    assert launcher.secret.encode() not in launcher.run.json("address.json")["url"].encode()


def test_the_launchers_port_tells_status_and_metrics_and_stops_the_run(stage: Stage, port: Callable[[], Port]) -> None:
    launcher = port()
    status = json.loads(launcher.get("/status"))
    assert status["run_id"] == "0" * 32
    assert status["phase"] == "measured"
    assert status["sent"] >= 20
    assert (status["ranks"], status["ranks_up"]) == (2, 2)
    assert 0 < status["fraction"] < 1
    assert status["requested_rps"] == 20
    assert json.loads(launcher.get("/timeline"))["t"] >= 1

    code, body, kind = fetch(f"{launcher.url}/metrics", secret=launcher.secret)
    assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = list(samples(body.decode()))
    assert all(labels["group_id"] == "7" for _, labels, _ in found)
    values = {(name, labels.get("phase") or labels.get("rank") or ""): value for name, labels, value in found}
    assert values["client_phase", "measured"] == 1
    assert values["client_phase", "draining"] == 0
    assert values["client_rank_up", "0"] == values["client_rank_up", "1"] == 1
    assert values["client_requests_total", ""] >= 20
    assert values["client_target_requests_per_second", ""] == 20

    assert fetch(f"{launcher.url}/control", secret=launcher.secret, body=b"stop")[0] == 202
    ended = stage.ended(launcher.process)
    assert ended.err == ""
    assert launcher.run.summary["outcome"] == "cancelled"
    assert list(samples((launcher.run.root / "metrics.prom").read_text()))
    final = launcher.run.json("status.json")
    assert final["phase"] == "finished"
    assert final["sent"] == launcher.run.summary["counts"]["sent"] == len(launcher.run.lines())
    assert final["in_flight"] == 0
    for name in ("plan", "address", "status", "summary"):
        assert launcher.run.json(f"{name}.json")["schema"] == 1
    assert all(line["schema"] == 1 for line in launcher.run.timeline() + launcher.run.lines())
    totals = {
        name: value for name, _, value in samples((launcher.run.root / "metrics.prom").read_text()) if "total" in name
    }
    assert totals["client_requests_total"] == launcher.run.summary["counts"]["sent"]


def test_whoever_follows_the_run_gets_each_second_and_its_end(stage: Stage, port: Callable[[], Port]) -> None:
    launcher = port()
    request = urllib.request.Request(f"{launcher.url}/events", headers={"authorization": f"Bearer {launcher.secret}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT) as answer:
        seen = [json.loads(answer.readline()) for _ in range(2)]
        assert fetch(f"{launcher.url}/control", secret=launcher.secret, body=b"stop")[0] == 202
        seen += [json.loads(line) for line in answer]
    stage.ended(launcher.process)
    assert seen.pop()["line"] is None
    assert [event["line"]["t"] for event in seen] == list(range(seen[0]["line"]["t"], len(launcher.run.timeline())))
    assert seen[0]["line"]["histograms"] == {}
    assert seen[0]["status"]["phase"] == "measured"
    assert seen[-1]["status"]["sent"] == launcher.run.summary["counts"]["sent"]


def test_a_rank_shows_as_down_once_it_is_lost(stage: Stage, port: Callable[[], Port]) -> None:
    launcher = port()
    os.kill(rank_pids(launcher.process.pid)[0], signal.SIGKILL)

    def down() -> bool:
        ups = [value for name, _, value in samples(launcher.get("/metrics").decode()) if name == "client_rank_up"]
        return sorted(ups) == [0, 1]

    wait_for(down, "no rank was ever shown as down")
    assert json.loads(launcher.get("/status"))["ranks_up"] == 1
