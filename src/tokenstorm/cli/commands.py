"""The commands: what may be typed. What one does is imported once it is run, so that the others start quickly."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tokenstorm.cli.parser import Parser
from tokenstorm.errors import RunError
from tokenstorm.program import interrupts_leave

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[Parser]  # noqa: SLF001 - what add_subparsers gives

ORCHESTRATOR_PORT, SERVER_PORT, CLIENT_PORT = 8000, 8001, 8003
TOKEN = "TOKENSTORM_TOKEN"  # noqa: S105 - the name of the variable


_BY_NAME = "its name tells the format: .txt .html .json .csv .md .xml .parquet .hlog"


def add_commands(commands: "Commands") -> None:
    """All of them."""
    _add_bench(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_serving(commands)
    _add_service(commands)
    _add_group(commands)
    _add_cluster(commands)
    recipes = commands.add_parser("recipes", help="what services can be created from")
    recipes.add_argument("name", nargs="?", metavar="RECIPE", help="one of them, with its parameters")
    recipes.add_argument(
        "--recipes", type=Path, action="append", default=[], metavar="DIR", help="more recipes; may be given again"
    )
    _add_json(recipes)
    recipes.set_defaults(run=_later("cli.recipes", "recipes"))
    demo = commands.add_parser("demo", help="everything on this machine: deploy a simulated engine, load it, results")
    _add_json(demo)
    demo.set_defaults(run=_later("cli.demo", "demo"))
    sim = commands.add_parser("sim", help="a simulated engine that costs no GPU")
    sim.fill = lambda: _fill_sim(sim)
    sim.set_defaults(run=_later("simulator.command", "run"))


def _fill_sim(sim: Parser) -> None:
    from tokenstorm.simulator.options import add_arguments  # noqa: PLC0415 - as of `_fill_bench`

    add_arguments(sim)


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A function of a module of ours, which is imported when the command is run."""

    def run(args: argparse.Namespace) -> int:
        try:
            sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # its own command, as long as all of ours
            with interrupts_leave():
                found = importlib.import_module(f"tokenstorm.{module}")
        except ModuleNotFoundError as error:
            if (error.name or "tokenstorm").partition(".")[0] == "tokenstorm":
                raise
            message = f"this command needs the extra `services` ({error}): pip install 'tokenstorm[services]'"
            raise RunError(message) from None
        command: Callable[[argparse.Namespace], int] = getattr(found, name)
        return command(args)

    return run


def _add_bench(commands: "Commands") -> None:
    bench = commands.add_parser("bench", help="load an endpoint from this machine")
    bench.fill = lambda: _fill_bench(bench)
    bench.set_defaults(run=_later("cli.bench", "bench"))


def _fill_bench(bench: Parser) -> None:
    from tokenstorm.options import add_load_options  # noqa: PLC0415 - it takes long: the other commands start without it
    from tokenstorm.typed_series import add_series_options  # noqa: PLC0415 - likewise

    bench.add_argument(
        "url",
        nargs="*",
        metavar="URL",
        help="of an OpenAI-compatible service, with or without /v1; several are replicas",
    )
    add_load_options(bench)
    bench.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where the run's files go (a new folder in the data folder)"
    )
    series = add_series_options(bench)
    series.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with a series that was cut off, in its folder"
    )
    bench.add_argument("--record-chunks", action="store_true", help="keep the time of every chunk in the result lines")
    bench.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    bench.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write the run there too; {_BY_NAME}")
    _add_results(bench)


def _add_report(commands: "Commands") -> None:
    report = commands.add_parser("report", help="the numbers of a run, from its files")
    report.add_argument("run_dir", metavar="RUN", help="a run directory, `last`, or a run id or its beginning")
    report.add_argument("--rebuild", action="store_true", help="from the result lines, even if there is a summary")
    report.add_argument("--json", action="store_true", help="print the summary as JSON, as --format json does")
    report.add_argument(
        "--format",
        choices=("text", "html", "json", "csv", "md", "junit", "parquet", "hdr"),
        help="text; html: the page with charts, report.html in the run's folder; csv and parquet: every request; md: for a "
        "pull request; junit: verdict, objectives and --fail-on as tests; hdr: HdrHistogram's log",
    )
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write it there; {_BY_NAME}")
    _add_results(report)
    report.set_defaults(run=_later("cli.report", "report"))
    runs = commands.add_parser("runs", help="all runs on this machine, with verdict and key numbers")
    _add_json(runs)
    runs.set_defaults(run=_later("cli.report", "runs"))


def _add_compare(commands: "Commands") -> None:
    what = "a run, a series or a folder of runs; `last`, a run id or its beginning, or the number of a group"
    compare = commands.add_parser("compare", help="did it get worse? Runs against the first")
    compare.add_argument("runs", nargs="+", metavar="RUN", help=what)
    compare.add_argument("--baseline", metavar="NAME", help="compare with the runs kept under this name")
    compare.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CHANGE",
        help="end with 4 where a number got so much worse, and significantly, as in 'ttft_p99>+5%%'; may be given again",
    )
    compare.add_argument("--force", action="store_true", help="compare runs of different loads, too")
    compare.add_argument(
        "--format",
        choices=("text", "md", "html", "json", "junit"),
        help="text; md: for a pull request; html: a page with the charts over one another; junit: --fail-if as tests",
    )
    _add_json(compare)
    compare.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write it there; its name tells the format: .txt .md .html .json .xml",
    )
    compare.set_defaults(run=_later("cli.compare", "compare"))
    baseline = commands.add_parser("baseline", help="runs kept under a name, to compare with")
    actions = baseline.add_subparsers(title="actions", required=True, metavar="ACTION")
    keep = actions.add_parser("set", help="keep runs under a name, in place of what was there")
    keep.add_argument("name", metavar="NAME")
    keep.add_argument("kept", metavar="RUN", help=what)
    show = actions.add_parser("list", help="all there are")
    remove = actions.add_parser("remove", help="forget one; the runs that it came from stay")
    remove.add_argument("name", metavar="NAME")
    for parser, name in ((keep, "set"), (show, "list"), (remove, "remove")):
        _add_json(parser)
        parser.set_defaults(run=_later("cli.compare", f"baseline_{name}"))


def _add_serving(commands: "Commands") -> None:
    up = commands.add_parser("up", help="the Server API, the orchestrator and the Client API together")
    _add_profile(up)
    _add_host(up)
    _add_port(up, "--server-port", SERVER_PORT)
    _add_port(up, "--client-port", CLIENT_PORT)
    _add_port(up, "--orchestrator-port", ORCHESTRATOR_PORT)
    _add_recipes(up)
    up.add_argument("--keep", action="store_true", help="leave services and groups running at the end")
    up.set_defaults(run=_later("cli.serve", "up"))

    orchestrator = commands.add_parser("orchestrator", help="the orchestrator alone")
    _add_profile(orchestrator)
    _add_host(orchestrator)
    _add_port(orchestrator, "--port", ORCHESTRATOR_PORT)
    _add_recipes(orchestrator)
    orchestrator.add_argument("--placed", type=Path, help=argparse.SUPPRESS)  # how a Server API starts it on a cluster
    orchestrator.set_defaults(run=_later("cli.serve", "orchestrator"))

    server = commands.add_parser("server", help="the Server API alone")
    _add_host(server)
    _add_port(server, "--port", SERVER_PORT)
    address = f"http://127.0.0.1:{ORCHESTRATOR_PORT}"
    server.add_argument("--orchestrator-url", default=address, metavar="URL", help="(%(default)s)")
    server.set_defaults(run=_later("cli.serve", "server"))

    client = commands.add_parser("client", help="the Client API alone")
    _add_profile(client)
    _add_host(client)
    _add_port(client, "--port", CLIENT_PORT)
    address = f"http://127.0.0.1:{SERVER_PORT}"
    client.add_argument("--server-url", default=address, metavar="URL", help="(%(default)s)")
    client.set_defaults(run=_later("cli.serve", "client"))


def _add_cluster(commands: "Commands") -> None:
    deploy = commands.add_parser("deploy", help="put this version where jobs run")
    _add_profile(deploy)
    deploy.add_argument("--prune", action="store_true", help="remove environments of other versions that nothing uses")
    _add_json(deploy)
    deploy.set_defaults(run=_later("cli.deploy", "deploy"))

    doctor = commands.add_parser("doctor", help="check that a profile works, step by step")
    _add_profile(doctor)
    doctor.add_argument("--recipe", metavar="R", help="check what this recipe needs, too")
    _add_recipes(doctor)
    _add_json(doctor)
    doctor.set_defaults(run=_later("cli.doctor", "doctor"))


def _add_service(commands: "Commands") -> None:
    service = commands.add_parser("service", help="inference services: create, look at, ask, stop")
    service.other_names = {"ls": "list", "ps": "list", "rm": "stop"}
    actions = service.add_subparsers(title="actions", required=True, metavar="ACTION")

    create = _action(actions, "service", "create", "start a service from a recipe")
    create.add_argument("recipe", metavar="RECIPE", help="as `tokenstorm recipes` lists them")
    create.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    create.add_argument("--config", metavar="JSON", help="the whole config as a JSON object, before --set")
    create.add_argument("--dry-run", action="store_true", help=DRY_RUN_HELP)
    create.add_argument("--wait", action="store_true", help="until it is ready")
    create.add_argument("--idempotency-key", metavar="KEY", help="the same request with it makes one service")
    create.add_argument("--timeout", type=float, default=900.0, metavar="S", help="of --wait, seconds (900)")

    show_all = _action(actions, "service", "list", "services, newest first; those that ended leave after a day")
    show_all.add_argument("--all", action="store_true", help="those that ended before, too")
    show_all.add_argument("--status", metavar="STATUS", help="only those")

    _of_service(actions, "show", "one service, with its replicas")
    _of_service(actions, "stop", "cancel it")
    _of_service(actions, "models", "the models it has")
    _of_service(actions, "metrics", "its engine's own metrics, Prometheus text", json=False)
    _of_service(actions, "access", "what a client needs to talk to its engine, the key included")
    logs = _of_service(actions, "logs", "its logs")
    logs.add_argument("--source", metavar="ID", help="a replica's id, or `job`")
    logs.add_argument("--follow", action="store_true", help="go on until it ends")
    prompt = _of_service(actions, "prompt", "ask it something")
    prompt.add_argument("text", metavar="TEXT")
    prompt.add_argument("--max-tokens", type=int, default=100, metavar="N", help="(100)")
    prompt.add_argument("--temperature", type=float, default=0.7, metavar="T", help="(0.7)")
    prompt.add_argument("--model")
    wait = _of_service(actions, "wait", "until it is ready")
    wait.add_argument("--timeout", type=float, default=900.0, metavar="S", help="seconds (900)")
    _action(actions, "service", "targets", "Prometheus' service discovery")


def _add_group(commands: "Commands") -> None:
    group = commands.add_parser("group", help="groups of clients: create, watch, stop, results")
    group.other_names = {"ls": "list", "ps": "list", "rm": "delete"}
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION")

    create = _action(actions, "group", "create", "send load to a service")
    create.fill = lambda: _fill_group_create(create)

    show_all = _action(actions, "group", "list", "groups, newest first; those that ended leave after a day")
    show_all.add_argument("--all", action="store_true", help="those that ended before, too")
    show_all.add_argument("--status", choices=("pending", "running", "stopped"), help="only those")
    _of_group(actions, "show", "one group")
    _add_results(_of_group(actions, "watch", "its progress, live, and its results"))
    _of_group(actions, "stop", "send no more, wait for what was sent, keep everything")
    _add_results(_of_group(actions, "results", "the summary"))
    _of_group(actions, "series", "the runs of a series so far, and what they come to")
    _of_group(actions, "metrics", "its Prometheus text", json=False)
    _of_group(actions, "report", "its report, as HTML; with --json its numbers")
    _of_group(actions, "logs", "the logs of its job")
    requests = _of_group(actions, "requests", "every request", json=False)
    requests.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl", help="(jsonl)")
    delete = _of_group(actions, "delete", "stop it and take it off the list")
    delete.add_argument("--purge", action="store_true", help="remove its result files too")
    observe = _of_group(actions, "observe", "have an address told of every change")
    observe.add_argument("url", metavar="URL")
    run = _action(actions, "group", "run", "release groups that were created with --start manual")
    run.add_argument("group_ids", nargs="+", type=int, metavar="GROUP")
    run.add_argument("--start-at", metavar="TIME", help="one moment for all, ISO 8601 (several: 5 s from now)")
    _action(actions, "group", "targets", "Prometheus' service discovery")


def _fill_group_create(create: Parser) -> None:
    from tokenstorm.options import add_group_options, add_load_options  # noqa: PLC0415 - as of `_fill_bench`
    from tokenstorm.typed_series import add_series_options  # noqa: PLC0415 - likewise

    create.add_argument("service_id", nargs="?", metavar="SERVICE", help="the id of a service or a group of replicas")
    create.add_argument("--target-url", metavar="URL", help="an engine of your own instead of a service")
    create.add_argument("--dry-run", action="store_true", help=DRY_RUN_HELP)
    create.add_argument("--watch", action="store_true", help="watch it to its end, and show its results")
    _add_results(create)
    add_load_options(create)
    add_series_options(create)
    where = add_group_options(create)
    where.add_argument("--idempotency-key", metavar="KEY", help="the same request with it makes one group")


def _add_results(parser: argparse.ArgumentParser) -> None:
    """What belongs to a command that shows a run's results."""
    parser.add_argument("--wide", action="store_true", help="all percentiles, in more than 80 columns")
    text = "end with 5 where it comes true: slo (fewer requests than asked met the objectives of --slo), suspect (the verdict is not valid), or a bound such as 'error_rate>1%%' or 'ttft_p99>500ms'; may be given again"
    parser.add_argument("--fail-on", action="append", default=[], metavar="WHAT", help=text)


DRY_RUN_HELP = "print the script, the commands and the files, without secrets, and submit nothing"
SET_HELP = (
    "a parameter, environment.NAME or resources.NAME; the value is read as JSON where it is some; may be given again"
)


def _action(actions: "Commands", module: str, name: str, text: str, *, json: bool = True) -> Parser:
    """One action; `json` tells that there is JSON of what it prints."""
    parser = actions.add_parser(name, help=text)
    for option, api in (("--server-url", "Server"), ("--client-url", "Client")):
        parser.add_argument(option, metavar="URL", help=f"of the {api} API ($TOKENSTORM_{api.upper()}_URL, or here)")
    if json:
        _add_json(parser)
    parser.set_defaults(run=_later(f"cli.{module}", name))
    return parser


def _of_service(actions: "Commands", name: str, text: str, *, json: bool = True) -> Parser:
    parser = _action(actions, "service", name, text, json=json)
    parser.add_argument("service_id", metavar="SERVICE")
    return parser


def _of_group(actions: "Commands", name: str, text: str, *, json: bool = True) -> Parser:
    parser = _action(actions, "group", name, text, json=json)
    parser.add_argument("group_id", type=int, metavar="GROUP")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, and nothing else")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="P", help="where jobs run (the configured default)")


def _add_host(parser: argparse.ArgumentParser) -> None:
    text = f"where to listen (%(default)s); beyond loopback a token is wanted, ${TOKEN} or a new one"
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help=text)


def _add_port(parser: argparse.ArgumentParser, option: str, default: int) -> None:
    parser.add_argument(option, type=_port, default=default, metavar="N", help="(%(default)s; 0: any that is free)")


def _add_recipes(parser: argparse.ArgumentParser) -> None:
    text = "a folder with more recipes; may be given again"
    parser.add_argument("--recipes", type=Path, action="append", default=[], metavar="DIR", help=text)


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:  # noqa: PLR2004 - what a port is
        return int(text)
    message = f"{text!r} is no port: give a number from 0 to 65535"
    raise argparse.ArgumentTypeError(message)
