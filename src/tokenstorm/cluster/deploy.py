"""This version's code on the cluster: a virtual environment below the base path, of wheels that travel over the shell.

    <base_path>/deploy/<version>-<content>-<platform>-<python>/     an environment, whole once `deployed.json` is there
    <base_path>/deploy/python-<version>-<content>-<asked>.json      which Python was found to do, for whom
    <base_path>/deploy/.new-<random>/                               one that is being made

The name of an environment says everything that is in it, it is made elsewhere and renamed, and none is ever changed:
whoever else deploys, or was interrupted, cannot break it.
"""

import asyncio
import contextlib
import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from tokenstorm.cluster import bare
from tokenstorm.cluster.bundle import OLDEST, Bundle, Target, bundle, wheels
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.step import Kind, on_node
from tokenstorm.errors import NOT_JSON, ClusterError, CommandFailed, UsageError
from tokenstorm.runs import data_home

_NOT_FOUND = 127
_SOURCE = Path(bare.__file__)


class Deployment:
    """Which Python runs this version, for many that ask at once: it is looked for once, and deployed when missing."""

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        self._site, self._say = site, say
        self._known: dict[Kind, PurePosixPath] = {}
        self._looking = asyncio.Lock()

    async def there(self, kind: Kind = "cpu") -> bool:
        """Whether `python` will answer at once. False while it is being deployed for somebody else."""
        if kind not in self._known and not self._looking.locked() and (found := await deployed(self._site, kind)):
            self._known[kind] = found
        return kind in self._known

    async def python(self, kind: Kind = "cpu") -> PurePosixPath:
        """The Python for that kind of job. Raises what `deploy` raises; the next one to ask tries again."""
        async with self._looking:
            if not self._known.get(kind):
                found = await deployed(self._site, kind)
                self._known[kind] = found or await deploy(self._site, self._say, kind)
            return self._known[kind]


async def deployed(site: Site, kind: Kind = "cpu") -> PurePosixPath | None:
    """The Python that runs this version on the nodes for that kind of job; None when `deploy` has to be called.

    No node is asked: it reads what an earlier `deploy` found, and whether that is still there.
    """
    if _is_this(site):
        return PurePosixPath(site.profile.python)
    which = await bundle_for(site)
    try:
        answer = msgspec.json.decode(await site.shell.get(_answer_file(site, which, kind)), type=dict[str, str])
        if "environment" in answer:
            await site.shell.get(PurePosixPath(answer["environment"]) / bare.WHOLE)
    except (FileNotFoundError, *NOT_JSON):
        return None
    return PurePosixPath(answer["python"])


async def deploy(site: Site, say: Callable[[str], None], kind: Kind = "cpu") -> PurePosixPath:
    """Put this version on the cluster, where it is not there yet; the Python that runs it. Safe to repeat, and at once.

    `profile.python` is used as it is where it can run this version already. `say` is told each step. Raises UsageError
    when the Python there will not do, or no wheels fit it, and what shell and scheduler raise.
    """
    if _is_this(site):
        return PurePosixPath(site.profile.python)
    which = await bundle_for(site)
    say(f"asking {_where(site, kind)} for its platform and Python")
    target = await ask(site, kind, which)
    if target.code == which.code:
        say(f"{site.profile.python} there runs this version already")
        answer = {"python": site.profile.python}
    else:
        check(site, target)
        environment = site.profile.base_path / "deploy" / f"{which.name}-{target.name}"
        if not await _is_whole(site, environment):
            await _make(site, which, target, environment, say=say, kind=kind)
        answer = {"python": str(environment / "bin" / "python"), "environment": str(environment)}
    await site.shell.put(_answer_file(site, which, kind), msgspec.json.encode(answer))
    return PurePosixPath(answer["python"])


async def bundle_for(site: Site) -> Bundle:
    """What a profile needs on its cluster: the services too where the orchestrator runs there."""
    return await asyncio.to_thread(bundle, services=site.profile.orchestrator.placement != "local")


async def ask(site: Site, kind: Kind, which: Bundle) -> Target:
    """What `profile.python` is on a node for that kind of job. Raises UsageError when it is not there."""
    return msgspec.convert(await _bare(site, kind, "ask", which.imports), Target)


def check(site: Site, target: Target) -> None:
    """Raises UsageError for a Python on which this version cannot be deployed."""
    key = f"profiles.{site.profile.name}.python"
    least = ".".join(map(str, OLDEST))
    if target.version[:2] < OLDEST or target.implementation != "cpython":
        message = (
            f"{key}: {site.profile.python} is {target.implementation} {target.python} on {target.node}, and CPython {least} "
            f"or newer is needed: name another, or load a module with it in profiles.{site.profile.name}.prologue"
        )
        raise UsageError(message)
    if target.missing:
        message = (
            f"{key}: {site.profile.python} on {target.node} lacks {' and '.join(target.missing)}, with which the "
            "environment is made: name a Python that has them (most modules have; Debian's is in python3-venv)"
        )
        raise UsageError(message)


async def _make(
    site: Site, which: Bundle, target: Target, environment: PurePosixPath, *, say: Callable[[str], None], kind: Kind
) -> None:
    say(f"getting the wheels for Python {target.python} on {target.machine}, {target.libc} {target.libc_version}")
    files = await asyncio.to_thread(wheels, which, target, data_home() / "wheels")
    temporary = environment.parent / f".new-{secrets.token_hex(8)}"
    try:
        say(f"sending {sum(map(len, files.values())) / 1e6:.1f} MB to {environment.parent}")
        for name, data in files.items():
            await site.shell.put(temporary / "wheels" / name, data)
        say(f"making the environment on {_where(site, kind)}")
        done = await _bare(site, kind, "build", which.imports, str(temporary), str(environment), *files)
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


async def _bare(site: Site, kind: Kind, *arguments: str) -> Mapping[str, object]:
    """What the script for a bare Python answers."""
    source = await asyncio.to_thread(_SOURCE.read_text, "utf-8")
    argv = [site.profile.python, "-c", source, *arguments]
    done = await on_node(site, argv, kind=kind)
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(bare.MARK):
            return msgspec.json.decode(line.removeprefix(bare.MARK), type=dict[str, object])
    if done.status == _NOT_FOUND:
        message = (
            f"profiles.{site.profile.name}.python: {site.profile.python} is not to be found on {_where(site, kind)}: name "
            f"another, or load a module with it in profiles.{site.profile.name}.prologue"
        )
        raise UsageError(message)
    raise CommandFailed([site.profile.python, *arguments], done.status, b"", done.stderr)


async def _is_whole(site: Site, environment: PurePosixPath) -> bool:
    try:
        await site.shell.get(environment / bare.WHOLE)
    except FileNotFoundError:
        return False
    return True


def _is_this(site: Site) -> bool:
    """Whether jobs run with the very Python that runs this."""
    return site.profile.scheduler == "local" and site.profile.python == sys.executable


def _answer_file(site: Site, which: Bundle, kind: Kind) -> PurePosixPath:
    """Another Python, prologue or partition is another question."""
    profile = site.profile
    asked = [
        profile.python,
        *profile.prologue,
        str(getattr(profile.partitions, kind)),
        str(profile.account),
        str(profile.qos),
        str(profile.constraint),
        str(profile.reservation),
        *profile.sbatch,
    ]
    key = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]
    return profile.base_path / "deploy" / f"python-{which.name}-{key}.json"


def _where(site: Site, kind: Kind) -> str:
    if site.profile.scheduler == "local":
        return "this machine"
    partition = getattr(site.profile.partitions, kind)
    return f"partition {partition}" if partition else "the default partition"
