"""From a group's request to its job: the plan, the run folder, and the submission."""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import structs
from msgspec.structs import asdict

from tokenstorm.api.dry_run import DryRun
from tokenstorm.api.groups import STARTUP_SECONDS, GroupRequest, signal_lead
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.services import Access
from tokenstorm.client_api.store import GroupSecrets
from tokenstorm.cluster.preview import HIDDEN, preview
from tokenstorm.cluster.scheduler import Job, JobId
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.setup.hold import Say
from tokenstorm.cluster.site import Site
from tokenstorm.custom import Custom
from tokenstorm.errors import RefusedJob, Unreachable, UsageError
from tokenstorm.interfaces import ANY_NETWORK
from tokenstorm.load import DEFAULT_SECONDS, make
from tokenstorm.load_parts import Arrival
from tokenstorm.loadgen.datasets import Columns
from tokenstorm.loadgen.prompts import check_file
from tokenstorm.loadgen.replay import settle_trace
from tokenstorm.loadgen.sizing import fewest_ranks, open_files
from tokenstorm.loadgen.variants import check_runs
from tokenstorm.plan import (
    Plan,
    PromptFile,
    PromptList,
    Prompts,
    SeriesPlan,
    Shared,
    TraceFile,
    decode_plan,
    encode_plan,
    plan_for,
)
from tokenstorm.series import encode_series
from tokenstorm.targets import Target

CORES_PER_NODE = 32
"""The least that a compute node is assumed to have, where ranks run on other machines."""
LAUNCHERS_CORE = 1
"""What a job gets on each node beside its ranks: the first node, which may be any, runs the launcher too."""

BARRIER_SECONDS = STARTUP_SECONDS - 20.0
"""How long ranks on other nodes may take to come: of the start-up, all but what the launcher itself takes."""


class SlurmClientDispatcher:
    """Puts a group's files where its job will run, and submits the job. Raises what shell and scheduler raise."""

    def __init__(self, site: Site, deployment: Deployment | None = None) -> None:
        self._site = site
        self._deployment = deployment

    def folder(self, run_id: str) -> PurePosixPath:
        """The run's folder on the cluster."""
        return self._site.profile.base_path / "runs" / run_id

    async def deployed(self) -> bool:
        """Whether a job can be submitted at once, without putting this version on the cluster first."""
        return self._deployment is None or await self._deployment.there()

    async def python(self, say: Say | None = None) -> str:
        """What runs the load generator there; it is deployed where it is missing, and `say` is told what that is at."""
        return str(await self._deployment.python(say=say)) if self._deployment else self._site.profile.of("cpu").python

    async def check_dataset(self, name: str, columns: Columns, custom: Custom | None = None) -> PromptFile:
        """The `prompts` of a plan for a dataset. Raises `UsageError` for one that is not there, or cannot be used."""
        path, data = await self._dataset(name, "dataset")
        checksum = await asyncio.to_thread(_checked, data, path, columns, custom)
        return PromptFile(path=str(path), sha256=checksum)

    async def check_trace(self, request: GroupRequest) -> dict[str, Any]:
        """The fields of the plan that replays the request's trace. Raises `UsageError` for one that cannot be replayed."""
        assert request.trace is not None
        path, data = await self._dataset(request.trace.path, "trace.path")
        return await asyncio.to_thread(settle_trace, request, request.trace, data, str(path))

    async def _dataset(self, name: str, field: str) -> tuple[PurePosixPath, bytes]:
        """Where a file of the folder for datasets is, and what is in it. Raises `UsageError`."""
        folder = self._site.profile.base_path / "datasets"
        try:
            return folder / name, await self._site.shell.get(folder / name)
        except FileNotFoundError:
            there = ", ".join(await self._site.shell.list(folder)) or "none"
            message = f"there is no {name!r} in {folder}: there is {there}"
            raise UsageError(message, field) from None
        except Unreachable:
            path = str(folder / name)
            if (await self._site.shell.run(["test", "-f", path, "-a", "-r", path])).status == 0:
                raise
            message = f"{path} is a folder, or a file that must not be read: name a file of prompts"
            raise UsageError(message, field) from None

    async def make_plan(self, group: ClientGroup, request: GroupRequest, access: Access) -> Plan:
        """The plan of a group whose service can be reached. Raises `UsageError`."""
        return self._plan(group, request, access, await self._prompts_of(request))

    def preview(self, group: ClientGroup, request: GroupRequest, access: Access | None) -> DryRun:
        """What would be submitted for a group that is not stored. The cluster is not asked. Raises `UsageError`."""
        notes: list[str] = []
        if access is None:
            notes.append("the service is not ready: where its engines will listen is not known yet")
            access = Access((("0", "http://not-known-yet"),))
        folder = self._site.profile.base_path / "datasets"
        asked: dict[str, Any]
        if request.dataset is not None:
            notes.append("the dataset is not looked at: its checksum is not known yet")
            asked = {"prompts": PromptFile(path=str(folder / request.dataset), sha256="0" * 64)}
        elif request.trace is not None:
            notes.append(
                "the trace is not looked at: its checksum, its rows, its duration and its rate are not known yet"
            )
            asked = {"prompts": TraceFile(path=str(folder / request.trace.path), sha256="0" * 64)}
            if request.arrival_by_trace:
                seconds = request.measured_seconds or DEFAULT_SECONDS
                asked |= {"arrival": Arrival(kind="trace"), "duration_seconds": seconds}
        else:
            asked = {"prompts": _own_prompts(request)}
        plan = self._plan(group, request, access, asked)
        nodes = () if request.colocate else _engine_nodes(plan)
        job = replace(self._job(group, request, plan.ranks), not_on=nodes)
        content = msgspec.json.decode(encode_plan(plan), type=dict[str, object])
        files: dict[str, Mapping[str, object] | str] = {"secrets.json": HIDDEN, "plan.json": content}
        if (series := _series(request, plan)) is not None:
            files["series.json"] = msgspec.json.decode(encode_series(series), type=dict[str, object])
        return preview(job, self._site.profile, command=job.command, files=files, notes=tuple(notes))

    def _plan(self, group: ClientGroup, request: GroupRequest, access: Access, asked: Mapping[str, Any]) -> Plan:
        """`asked` are the prompts, and what a trace says of the times."""
        elsewhere = self._site.profile.scheduler != "local"
        ranks = request.ranks or _ranks(request, asked.get("arrival"), elsewhere=elsewhere)
        there = {"host": self._site.profile.interface or ANY_NETWORK, "barrier_seconds": BARRIER_SECONDS}
        return plan_for(
            request,
            run_id=group.run_id,
            group_id=group.group_id,
            model=request.model or access.model,
            targets=[
                Target(replica=replica, url=url, nodes=access.nodes.get(replica, ()))
                for replica, url in access.endpoints
            ],
            gpu_samplers=access.gpu_samplers,
            ranks=ranks,
            launch=self._site.scheduler.fan_out(self._job(group, request, ranks)),
            **asked,
            **(there if elsewhere else {}),
        )

    async def _prompts_of(self, request: GroupRequest) -> dict[str, Any]:
        if request.trace is not None:
            return await self.check_trace(request)
        if request.dataset is not None:
            return {"prompts": await self.check_dataset(request.dataset, request.columns, request.custom)}
        return {"prompts": _own_prompts(request)}

    async def prepare(self, group: ClientGroup, request: GroupRequest, plan: Plan, secrets: GroupSecrets) -> None:
        """Write the run folder. The plan comes last: where it is, all is."""
        folder, shell = self.folder(group.run_id), self._site.shell
        await shell.put(folder / "secrets.json", msgspec.json.encode(secrets), mode=0o600)
        if (series := _series(request, plan)) is not None:
            await shell.put(folder / "series.json", encode_series(series), mode=0o600)
        await shell.put(folder / "plan.json", encode_plan(plan), mode=0o600)

    async def prepared(self, group: ClientGroup) -> Plan | None:
        """The plan that lies in the run folder, if it was prepared."""
        path = self.folder(group.run_id) / "plan.json"
        try:
            return decode_plan(await self._site.shell.get(path), str(path))
        except FileNotFoundError:
            return None

    async def submit(self, group: ClientGroup, request: GroupRequest, plan: Plan) -> JobId:
        """Submit the job of a prepared group; one that is known by its name is not submitted again."""
        nodes = () if request.colocate else _engine_nodes(plan)
        job = self._job(group, request, plan.ranks)
        command = (await self.python(), *job.command[1:])
        try:
            return await self._site.scheduler.submit(replace(job, command=command, not_on=nodes))
        except RefusedJob as error:
            if not nodes:
                raise
            message = f"{error}; the engine's nodes ({', '.join(nodes)}) are left out: `colocate` lifts that"
            raise RefusedJob(message) from error

    async def withdraw(self, group: ClientGroup, request: GroupRequest) -> JobId | None:
        """Make sure that its job is never submitted from now on. Returns the job that exists all the same, if any."""
        return await self._site.scheduler.withdraw(self._job(group, request, request.nodes))

    def _job(self, group: ClientGroup, request: GroupRequest, ranks: int) -> Job:
        """The job by the profile's own Python, and not yet kept from any node."""
        folder = self.folder(group.run_id)
        what = ("run", str(folder / "plan.json")) if request.series is None else ("series", str(folder / "series.json"))
        return Job(
            name=group.job_name,
            command=(self._site.profile.of("cpu").python, "-m", "tokenstorm.loadgen", *what),
            folder=folder,
            nodes=request.nodes,
            tasks_per_node=-(-ranks // request.nodes) + LAUNCHERS_CORE,
            tasks=ranks,
            time_limit_minutes=request.minutes,
            signal_lead_seconds=signal_lead(request.drain_seconds),
            exclusive=request.exclusive,
        )


def _series(request: GroupRequest, plan: Plan) -> SeriesPlan | None:
    """The series that a group is to run. Raises `UsageError` for one of which a run makes no sense."""
    if request.series is None:
        return None
    try:
        series = make(
            {"plan": plan, "series": request.series, "ranks": plan.ranks if plan.launch else None}, SeriesPlan
        )
        check_runs(series)
    except UsageError as error:
        message = f"{error.field}: {error.message}" if error.field not in {None, "series"} else error.message
        raise UsageError(message, "series") from None
    return series


def _own_prompts(request: GroupRequest) -> Prompts:
    """Those that a request brings along, or has made up."""
    if request.shared_prefix is not None:
        return Shared(**asdict(request.shared_prefix))
    return request.synthetic.made_up if request.synthetic else PromptList(prompts=tuple(request.prompts or ()))


def _checked(data: bytes, path: PurePosixPath, columns: Columns, custom: Custom | None) -> str:
    """The checksum of a dataset that can be used. Raises `UsageError`."""
    try:
        check_file(data, str(path), columns, custom)
    except UsageError as error:
        raise UsageError(error.message, error.field or "dataset") from None
    return hashlib.sha256(data).hexdigest()


def _ranks(request: GroupRequest, arrival: Arrival | None, *, elsewhere: bool) -> int:
    """The fewest that carry the load, and as many on each node; what a process may open is known of this machine alone."""
    cores = (CORES_PER_NODE - LAUNCHERS_CORE) * request.nodes if elsewhere else os.cpu_count() or 1
    files = None if elsewhere else open_files()
    heaviest, clients = _heaviest(request)
    per_node = -(-fewest_ranks(heaviest, cores, files, arrival) // request.nodes)
    return max(1, min(per_node, clients // request.nodes)) * request.nodes


def _heaviest(request: GroupRequest) -> tuple[GroupRequest, int]:
    """The request at the heaviest load of its series, and the fewest clients of a run: the same ranks carry all."""
    series = request.series
    if series is None:
        return request, request.num_clients
    most: dict[str, Any] = {}
    for name in ("requests_per_second", "num_clients", "max_tokens"):
        if values := [value for value in series.sweep.get(name, ()) if isinstance(value, int | float)]:
            most[name] = max(values)
    fewest = [value for value in series.sweep.get("num_clients", ()) if isinstance(value, int)]
    if series.search is not None and series.search.field == "num_clients":
        fewest = [round(series.search.start)]
    if series.search is not None and series.search.most is not None:
        value = series.search.most
        most[series.search.field] = round(value) if series.search.field == "num_clients" else value
    try:
        return structs.replace(request, **most), min(fewest, default=request.num_clients)
    except ValueError:  # what is wrong with a run is told when they are checked
        return request, request.num_clients


def _engine_nodes(plan: Plan) -> tuple[str, ...]:
    """The nodes of the engine, by what is known of its replicas, or by their names, `<node>.<index>`."""
    nodes = (target.nodes or target.replica.rpartition(".")[:1] for target in plan.targets)
    return tuple(sorted({node for one in nodes for node in one if node}))
