"""This version's code on the cluster: a virtual environment below the base path, of wheels that travel over the shell.

    <base_path>/deploy/<version>-<content>-<platform>-<python>/     an environment, whole once `deployed.json` is there
    <base_path>/deploy/python-<version>-<content>-<asked>.json      which Python was found to do, for whom
    <base_path>/deploy/.new-<random>/                               one that is being made

The name of an environment says everything that is in it. It is made elsewhere and then renamed, and never changed, so another
deploy, or one that was interrupted, cannot break it. An environment with missing files does not count: sites purge. The time
of its `deployed.json` tells when it was last used.
"""

import asyncio
import contextlib
import hashlib
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from time import monotonic

import msgspec

from tokenstorm.cluster.scheduler import Kind
from tokenstorm.cluster.setup import bare
from tokenstorm.cluster.setup.bundle import DOWNLOAD_SECONDS, OLDEST, Bundle, Target, bundle, wheels
from tokenstorm.cluster.setup.hold import Node, Say, hold, where
from tokenstorm.cluster.site import Site
from tokenstorm.errors import NOT_JSON, ClusterError, CommandFailed, UsageError
from tokenstorm.runs import data_home

_NOT_FOUND = 127
_SOURCE = Path(bare.__file__)
KNOWN_SECONDS = 300.0
"""How long an answer counts: a site may purge files at any time."""
BUILD_SECONDS = 600.0
_LOOK = """
touch -c -- "$1/$2" && cat -- "$1/$2" && echo &&
    find "$1" -name __pycache__ -prune -o ! -type d ! -name "$2" -print | wc -l
"""


class Deployment:
    """Which Python runs this version, for many that ask at once: it is looked for once, and deployed when missing.

    A deploy goes on as long as anyone waits for it, not only the first caller, so it queues for a node once.
    """

    def __init__(self, site: Site, say: Say) -> None:
        self._site, self._say = site, say
        self._known: dict[Kind, tuple[float, PurePosixPath]] = {}
        self._making: dict[Kind, _Making] = {}

    async def there(self, kind: Kind = "cpu") -> bool:
        """Whether `python` will answer at once. False while another caller's deploy is under way."""
        if self._fresh(kind) is None and kind not in self._making:
            self._note(kind, await deployed(self._site, kind))
        return self._fresh(kind) is not None

    async def python(self, kind: Kind = "cpu", say: Say | None = None) -> PurePosixPath:
        """The Python for that kind of job; `say` is told what a deploy is at.

        Raises what `deploy` raises; the next one to ask tries again.
        """
        if found := self._fresh(kind):
            return found
        making = self._making.get(kind)
        if making is None or making.given_up:
            making = self._making[kind] = _Making([self._say])
            making.task = asyncio.create_task(self._make(kind, making))
        return await making.wait(say)

    async def _make(self, kind: Kind, making: "_Making") -> PurePosixPath:
        try:
            python = await deployed(self._site, kind) or await deploy(self._site, making.tell, kind)
            self._note(kind, python)
            return python
        finally:
            if self._making.get(kind) is making:
                del self._making[kind]

    def _fresh(self, kind: Kind) -> PurePosixPath | None:
        """The Python found lately, or None."""
        since, python = self._known.get(kind, (0.0, None))
        return python if monotonic() - since < KNOWN_SECONDS else None

    def _note(self, kind: Kind, python: PurePosixPath | None) -> None:
        if python is not None:
            self._known[kind] = monotonic(), python


class _Making:
    """One deploy, and the callers that are told its steps. It is given up when no caller waits any more."""

    def __init__(self, told: list[Say]) -> None:
        self.task: asyncio.Task[PurePosixPath]
        self._told = told
        self._waiting = 0
        self._last = ""
        self.given_up = False
        """Whether it is being cleared away: a new caller starts again."""

    def tell(self, line: str) -> None:
        """What it is at."""
        self._last = line
        for say in tuple(self._told):
            say(line)

    async def wait(self, say: Say | None) -> PurePosixPath:
        """Wait for its Python. Raises the deploy's error."""
        if say:
            self._told.append(say)
            if self._last:
                say(self._last)
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if say:
                self._told.remove(say)
            if not self._waiting and not self.task.done():
                self.given_up = True
                self.task.cancel()
                await asyncio.wait((self.task,))


async def deployed(site: Site, kind: Kind = "cpu") -> PurePosixPath | None:
    """The Python that runs this version on the nodes for that kind of job; None when `deploy` has to be called.

    No node is asked: it reads what an earlier `deploy` found, and whether that is still there.
    """
    if _is_this(site):
        return PurePosixPath(site.profile.python)
    which = await bundle_for(site)
    try:
        answer = msgspec.json.decode(await site.shell.get(_answer_file(site, which, kind)), type=dict[str, str])
    except (FileNotFoundError, *NOT_JSON):
        return None
    whole = "environment" not in answer or await _is_whole(site, PurePosixPath(answer["environment"]))
    return PurePosixPath(answer["python"]) if whole else None


async def deploy(site: Site, say: Say, kind: Kind = "cpu") -> PurePosixPath:
    """Put this version on the cluster, unless it is there. Returns the Python that runs it. Safe to repeat, also in parallel.

    A node is waited for as long as that takes. `profile.python` is used as it is where it can run this version already. `say` is told each step. Raises UsageError
    when the Python there will not do, or no wheels fit it, and what shell and scheduler raise.
    """
    if _is_this(site):
        return PurePosixPath(site.profile.python)
    which, python = await bundle_for(site), site.profile.of(kind).python
    say(f"asking {where(site, kind)} for its platform and Python")
    async with hold(site, kind, say=say, idle_seconds=DOWNLOAD_SECONDS + 60, patient=True) as node:
        target = await ask(site, node, which, kind)
        if target.code == which.code:
            say(f"{python} there runs this version already")
            answer = {"python": python}
        else:
            check(site, target, kind)
            environment = site.profile.base_path / "deploy" / f"{which.name}-{target.name}"
            if not await _is_whole(site, environment):
                await _make(site, node, which, target, environment, say=say, kind=kind)
            answer = {"python": str(environment / "bin" / "python"), "environment": str(environment)}
        await site.shell.put(_answer_file(site, which, kind), msgspec.json.encode(answer))
    return PurePosixPath(answer["python"])


async def bundle_for(site: Site) -> Bundle:
    """The bundle that a profile needs on its cluster: with the services where the orchestrator runs there."""
    return await asyncio.to_thread(bundle, services=site.profile.orchestrator.placement != "local")


async def ask(site: Site, node: Node, which: Bundle, kind: Kind = "cpu") -> Target:
    """What the profile's `python` for that kind of job is on a node. Raises UsageError when it is not there."""
    return msgspec.convert(await _bare(site, kind, node, "ask", which.imports), Target)


def check(site: Site, target: Target, kind: Kind = "cpu") -> None:
    """Raises UsageError for a Python on which this version cannot be deployed."""
    jobs = site.profile.of(kind)
    name = f"profiles.{jobs.name}"
    key = f"{name}.{jobs.key(kind, 'python')}"
    least = ".".join(map(str, OLDEST))
    if target.version[:2] < OLDEST or target.implementation != "cpython":
        message = (
            f"{key}: {jobs.python} is {target.implementation} {target.python} on {target.node}, and CPython {least} "
            f"or newer is needed: name another, or load a module with it in {name}.{jobs.key(kind, 'prologue')}"
        )
        raise UsageError(message)
    if target.missing:
        message = (
            f"{key}: {jobs.python} on {target.node} lacks {' and '.join(target.missing)}, with which the "
            "environment is made: name a Python that has them (most modules have; Debian's is in python3-venv)"
        )
        raise UsageError(message)


async def _make(
    site: Site, node: Node, which: Bundle, target: Target, environment: PurePosixPath, *, say: Say, kind: Kind
) -> None:
    say(f"getting the wheels for Python {target.python} on {target.machine}, {target.libc} {target.libc_version}")
    files = await asyncio.to_thread(wheels, which, target, data_home() / "wheels")
    temporary = environment.parent / f".new-{secrets.token_hex(8)}"
    try:
        say(f"sending {sum(map(len, files.values())) / 1e6:.1f} MB to {environment.parent}")
        for name, data in files.items():
            await site.shell.put(temporary / "wheels" / name, data)
        say(f"making the environment on {target.node}")
        done = await _bare(site, kind, node, "build", which.imports, str(temporary), str(environment), *files)
    except BaseException:  # what is left, if this fails too, is removed by a later deploy
        with contextlib.suppress(ClusterError):
            await site.shell.remove(temporary)
        raise
    if "failed" in done:
        await site.shell.remove(temporary)
        said = str(done["said"]).strip()
        message = f"the environment could not be made on {target.node}: `{done['failed']}` failed: {said}"
        raise UsageError(message)
    say(f"deployed: {environment}" if done["won"] else f"deployed by another at the same time: {environment}")


async def _bare(site: Site, kind: Kind, node: Node, *arguments: str) -> Mapping[str, object]:
    """What the script for a bare Python answers."""
    jobs = site.profile.of(kind)
    key, prologue = (f"profiles.{jobs.name}.{jobs.key(kind, name)}" for name in ("python", "prologue"))
    source = await asyncio.to_thread(_SOURCE.read_text, "utf-8")
    done = await node.run([jobs.python, "-c", source, *arguments], seconds=BUILD_SECONDS)
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(bare.MARK):
            return msgspec.json.decode(line.removeprefix(bare.MARK), type=dict[str, object])
    if done.status == _NOT_FOUND:
        message = (
            f"{key}: {jobs.python} is not to be found on {node.name}: name "
            f"another, or load a module with it in {prologue}"
        )
        raise UsageError(message)
    if arguments[0] == "ask":
        said = done.stderr.decode(errors="replace").strip()[-200:]
        message = (
            f"{key}: {jobs.python} on {node.name} is no Python that answers (status "
            f"{done.status}{': ' if said else ''}{said}): name another"
        )
        raise UsageError(message)
    raise CommandFailed([jobs.python, arguments[0]], done.status, b"", done.stderr)


async def _is_whole(site: Site, environment: PurePosixPath) -> bool:
    """Whether all its files are there. Notes that it is in use."""
    done = await site.shell.run(["sh", "-c", _LOOK, "sh", str(environment), bare.WHOLE])
    told, _, found = done.stdout.decode(errors="replace").strip().rpartition("\n")
    with contextlib.suppress(*NOT_JSON):
        return done.status == 0 and msgspec.json.decode(told, type=_Whole).files == int(found)
    return False


class _Whole(msgspec.Struct):
    files: int


def _is_this(site: Site) -> bool:
    """Whether jobs run with the very Python that runs this."""
    return site.profile.scheduler == "local" and site.profile.python == sys.executable


def _answer_file(site: Site, which: Bundle, kind: Kind) -> PurePosixPath:
    """Another Python, prologue, cluster or partition is another question."""
    profile = site.profile.of(kind)
    asked = [
        profile.python,
        *profile.prologue,
        str(profile.cluster),
        str(profile.partition),
        str(profile.account),
        str(profile.qos),
        str(profile.constraint),
        str(profile.reservation),
        *profile.sbatch,
    ]
    key = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]
    return profile.base_path / "deploy" / f"python-{which.name}-{key}.json"
