"""From a service's row to its job, however long that takes: code that is deployed, a folder, one submission.

The row holds all that is needed, so that a restart goes on from it. A failure that may pass is tried
again, and the row's `reason` says what the service waits for. A refusal by Slurm or a recipe ends the service.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Protocol, cast

import msgspec

from tokenstorm.api.dry_run import DryRun
from tokenstorm.cluster.preview import HIDDEN, preview
from tokenstorm.cluster.scheduler import Job, Kind
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.errors import CommandFailed, RunError
from tokenstorm.interfaces import ANY_NETWORK
from tokenstorm.jobs.pauses import pauses
from tokenstorm.jobs.settler import REFUSED, Settler, Steps, waiting_for

from .caches import at_site
from .clock import Clock
from .container import ENTRY, ENTRY_TEXT, contained
from .launch import Launch, at_home, on_one_machine, prepare, service_file, simulated
from .recipe import Resources
from .recipes import Recipes
from .service import LEAVE_SECONDS, Service

SUBMITTING = "being submitted"
DEPLOYING = "this version of tokenstorm is being put on the cluster"
WITHDRAW_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds until what failed is tried again; twice as many each time."""


class Rows(Protocol):
    """The rows of services."""

    def get(self, service_id: str) -> Service:
        """As it is now."""
        ...

    def put(self, service: Service) -> Service:
        """Store its new state. Raises RunError when the disk takes nothing."""
        ...


class Starter:
    """Starts the services of one site. A service that was cancelled before its job was known leaves no job behind."""

    def __init__(self, site: Site, recipes: Recipes, deployment: Deployment | None, rows: Rows, clock: Clock) -> None:
        self._site, self._recipes, self._deployment = site, recipes, deployment
        self._rows, self._clock = rows, clock
        self.settler = Settler(
            Steps(
                attempt=self._attempt,
                refuse=self._fail,
                wait=lambda service_id, error: self._say(service_id, waiting_for(error)),
                pauses=lambda: pauses(FIRST_PAUSE, LONGEST_PAUSE, 2.0),
                refused=(*REFUSED, CommandFailed),
                monotonic=clock.monotonic,
            )
        )

    async def close(self) -> None:
        """Stop; the next start goes on from the rows. A withdrawal that is under way gets some time to finish."""
        await self.settler.close(last=lambda service_id: self._rows.get(service_id).ended, seconds=WITHDRAW_SECONDS)

    def launch(self, recipe_name: str, config: Mapping[str, object], python: str | None = None) -> Launch:
        """What a recipe runs here, by the profile's Python or another. Raises Unknown and ConfigError."""
        profile = self._site.profile
        recipe = at_home(self._recipes.get(recipe_name), profile)
        launch = prepare(recipe, config, profile.model_copy(update={"python": python}) if python else profile)
        python = python or profile.python
        needs_gpu = launch.resources.gpu > 0
        if profile.simulate and needs_gpu:
            return simulated(launch, python, f"the profile {profile.name!r} has no GPU")
        if profile.scheduler != "local":
            return launch
        launch = on_one_machine(launch)
        if needs_gpu and not self._site.has_gpu:
            return simulated(launch, python, "this machine has no GPU")
        return launch

    async def _attempt(self, service_id: str) -> bool:
        await (self._end if self._rows.get(service_id).ended else self._start)(service_id)
        return True

    async def _start(self, service_id: str) -> None:
        service = self._rows.get(service_id)
        kind = _kind(service.resources)
        python = await self._python(kind, lambda line: self._say(service_id, f"{DEPLOYING}: {line}"))
        launch = self.launch(service.recipe_name, service.config, python)
        self._say(service_id, SUBMITTING)
        await self._write_folder(service, launch)
        job_id = await self._site.scheduler.submit(self._job(service, python))
        self._rows.put(replace(self._rows.get(service_id), job_id=job_id, reason="", config={}))

    async def _end(self, service_id: str) -> None:
        """End a service whose job is not known: never submit it, and cancel a job that exists all the same."""
        service = self._rows.get(service_id)
        job_id = await self._site.scheduler.withdraw(self._job(service, self._site.profile.python))
        if job_id is not None:
            await self._site.scheduler.cancel(job_id, service.sent)
        service = self._rows.get(service_id)
        reason = service.reason if service.status == "failed" else ""
        self._rows.put(replace(service, job_id=job_id, reason=reason, stopping=False, config={}))

    async def _fail(self, service_id: str, why: str) -> None:
        """Fail a service. An unconfirmed submission may have made a job; that is ruled out next."""
        service = self._rows.get(service_id)
        stopping = not service.ended
        if stopping:
            service = replace(service, status="failed", reason=why, ended_at=self._clock.now())
        self._rows.put(replace(service, stopping=stopping, config={}))

    def _say(self, service_id: str, reason: str) -> None:
        """Say what a service waits for. A failed service keeps the reason of its failure."""
        service = self._rows.get(service_id)
        with contextlib.suppress(RunError):  # the disk; it is said again at the next try
            if service.status != "failed":
                self._rows.put(replace(service, reason=reason))

    async def _python(self, kind: Kind, say: Callable[[str], None]) -> str:
        """What runs our code on the nodes for that kind of job; it is deployed where it is missing."""
        if self._deployment is None:
            return self._site.profile.of(kind).python
        return str(await self._deployment.python(kind, say))

    def preview(self, service: Service, launch: Launch) -> DryRun:
        """What would be submitted for a service that is not stored. The site is not asked. Raises UsageError."""
        profile = self._site.profile
        content, texts = self._folder(service, launch)
        return preview(
            self._job(service, profile.of(_kind(service.resources)).python),
            profile,
            command=tuple(map(str, cast(list[str], content["command"]))),
            files={**dict.fromkeys(texts, HIDDEN), "service.json": content},
            notes=tuple(filter(None, (launch.note, "words such as {port} are filled in on the node"))),
        )

    async def _write_folder(self, service: Service, launch: Launch) -> None:
        content, texts = self._folder(service, launch)
        for name, text in texts.items():
            await self._site.shell.put(service.path / name, text.encode(), mode=0o700 if name == ENTRY else 0o600)
        await self._site.shell.put(service.path / "service.json", msgspec.json.encode(content), mode=0o600)

    def _folder(self, service: Service, launch: Launch) -> tuple[dict[str, object], dict[str, str]]:
        """What `service.json` holds, and the texts of the other files of the service's folder, by name."""
        profile, folder = self._site.profile, service.path
        host = "127.0.0.1" if profile.scheduler == "local" else profile.interface or ANY_NETWORK
        launch = contained(at_site(launch, profile), profile, folder)
        texts = {ENTRY: ENTRY_TEXT} if profile.container.runtime == "enroot" else {}
        if launch.key.file:
            texts[launch.key.file] = launch.key.content.replace("{api_key}", service.api_key)
        return service_file(launch, service.id, service.api_key, host, folder), texts

    def _job(self, service: Service, python: str) -> Job:
        resources = service.resources
        job = Job(
            name=service.job_name,
            command=(python, "-m", "tokenstorm.node", service.folder),
            folder=PurePosixPath(service.folder),
            kind=_kind(resources),
            nodes=resources.nodes,
            cpus_per_task=resources.cpu,
            memory_mb=resources.memory_mb,
            gpus_per_node=resources.gpu,
            time_limit_minutes=resources.time_limit,
            signal_lead_seconds=LEAVE_SECONDS,
            signal_to="tasks",
        )
        return replace(job, command=(*self._site.scheduler.fan_out(job), *job.command))


def _kind(resources: Resources) -> Kind:
    return "gpu" if resources.gpu else "cpu"
