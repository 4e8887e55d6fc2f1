"""The doctor's checks on compute nodes: what they see of the base path, what they have, and who can reach them."""

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath
from time import monotonic
from typing import Literal

import msgspec

from tokenstorm.cluster.scheduler import Kind
from tokenstorm.cluster.setup.checks import Finding, Step, Visit
from tokenstorm.cluster.setup.deploy import ask, bundle_for, check, deployed
from tokenstorm.cluster.setup.hold import SEEN_SECONDS, where
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.ssh.reach import Opening
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.errors import ClusterError, CommandFailed
from tokenstorm.interfaces import ANY_NETWORK

SLOW_SECONDS = 5.0
ECHO_SECONDS = 120.0
REACH_SECONDS = 20.0
NOT_FOUND = 127
WORDS = 400


_FIND = "case $1 in '~/'*) set -- \"$HOME/${1#'~/'}\";; esac; command -v \"$1\""


async def _node(visit: Visit) -> Finding:
    """Check that a node runs a command, and that node and login see each other's files, by which the command travels."""
    node = await visit.node("cpu")
    began = monotonic()
    text = '[ "$1" = local ] || command -v srun'
    done = await node.run(["bash", "-c", text, "bash", visit.site.profile.scheduler])
    took, base = monotonic() - began, visit.site.profile.base_path
    if done.status:
        key = f"profiles.{visit.site.profile.name}.prologue"
        return (
            "failed",
            f"no srun on the path of {node.name}, by which jobs start their ranks: load its module in {key}",
        )
    if took > SLOW_SECONDS:
        return "warning", f"{node.name} shares {base}, but files take long to show: {took:.0f} s for one command"
    if node.complaints:
        return "warning", f"{node.name} shares {base}; the prologue complains there: {node.complaints[-WORDS:]}"
    return "ok", f"{node.name} runs commands, and shares {base}"


async def _appears(visit: Visit, name: str, maker: "asyncio.Task[Output]") -> bool:
    """Whether a file of the visit's folder shows in time. What its maker wrote may show after its end, but not much."""
    end = monotonic() + SEEN_SECONDS
    while name not in await visit.site.shell.list(visit.folder):
        if maker.done():
            end = min(end, monotonic() + SLOW_SECONDS)
        if monotonic() > end:
            return False
        await asyncio.sleep(0.2)
    return True


async def _python(visit: Visit) -> Finding:
    target = visit.target = await ask(visit.site, await visit.node("cpu"), await bundle_for(visit.site))
    if target.code is None:
        check(visit.site, target)
    platform = f"{target.machine}, {target.libc} {target.libc_version}"
    return (
        "ok",
        f"{visit.site.profile.of('cpu').python} is Python {target.python} on {platform}{await _gpu_python(visit)}",
    )


async def _gpu_python(visit: Visit) -> str:
    """The same check for jobs with GPUs, where they have a Python or a prologue of their own."""
    profile = visit.site.profile
    if not {"python", "prologue"} & profile.gpu.model_fields_set:
        return ""
    target = await ask(visit.site, await visit.node("gpu"), await bundle_for(visit.site), "gpu")
    if target.code is None:
        check(visit.site, target, "gpu")
    return f"; {profile.of('gpu').python} of jobs with GPUs is Python {target.python} on {target.machine}"


async def _code(visit: Visit) -> Finding:
    assert visit.target, "this check is after that of Python"
    visit.python = await deployed(visit.site)
    if visit.python is None and visit.target.code == (await bundle_for(visit.site)).code:
        visit.python = PurePosixPath(visit.site.profile.of("cpu").python)
    if visit.python is None:
        name = visit.site.profile.name
        return "warning", f"not there yet: the first group deploys it, or `tokenstorm deploy --profile {name}` does now"
    node = await visit.node("cpu")
    done = await node.run([str(visit.python), "-c", (await bundle_for(visit.site)).imports])
    if done.status:
        words = done.stderr.decode(errors="replace").strip()
        return "failed", f"{visit.python} does not run: {words}; remove {visit.python.parents[1]} and deploy again"
    return "ok", f"{visit.python} runs this version"


async def _container(visit: Visit) -> Finding:
    runtime, images = visit.site.profile.container.runtime, visit.site.profile.container.images
    if runtime == "none":
        return "skipped", "the profile has no container.runtime: engines run as they are installed on the nodes"
    kind = visit.needs.kind if visit.needs else "gpu" if visit.site.profile.offers_gpus else "cpu"
    done = await (await visit.node(kind)).run([runtime, "version" if runtime == "enroot" else "--version"])
    if done.status:
        on, key = where(visit.site, kind), f"profiles.{visit.site.profile.name}"
        return "failed", f"{runtime} does not run on {on}: load its module in {key}.prologue, or change {key}.container"
    version = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or [runtime]
    if images and await _unreadable(visit, kind, [images]):
        return (
            "failed",
            f"{version[0]}, but the nodes cannot read container.images, {images}: make it, and put images there",
        )
    if visit.needs and visit.needs.image and await _unreadable(visit, kind, [visit.needs.image]):
        return (
            "failed",
            f"{visit.needs.recipe} needs {visit.needs.image}, which the nodes cannot read: put the image there",
        )
    return "ok", f"{version[0]}" + (f"; images in {images}" if images else "")


async def _recipe(visit: Visit) -> Finding:
    needs = visit.needs
    if needs is None:
        return "skipped", "name one with --recipe to have checked what it needs"
    if visit.site.profile.scheduler == "local" and needs.kind == "gpu" and not visit.site.has_gpu:
        return "warning", f"this machine has no GPU for {needs.recipe}: a simulated engine answers instead"
    if missing := await _unreadable(visit, needs.kind, needs.files):
        return "failed", f"{needs.recipe} needs {', '.join(missing)}, which the nodes cannot read: put the model there"
    if needs.program:
        node = await visit.node(needs.kind)
        done = await node.run(["bash", "-c", _FIND, "bash", needs.program])
        if done.status:
            name = visit.site.profile.name
            return "failed", (
                f"{needs.recipe} runs {needs.program}, which is not on the path of the nodes: load its module in "
                f"profiles.{name}.prologue, or set profiles.{name}.container"
            )
    return "ok", ", ".join(
        [*map(str, needs.files), *([needs.program] if needs.program else [])]
    ) or "needs nothing more"


async def _unreadable(visit: Visit, kind: Kind, paths: Sequence[PurePosixPath]) -> list[str]:
    """Those that a node cannot read."""
    if not paths:
        return []
    test = 'for path; do [ -r "$path" ] && echo readable || echo unreadable; done'
    command = ["bash", "-c", test, "bash", *map(str, paths)]
    done = await (await visit.node(kind)).run(command)
    told = done.stdout.decode(errors="replace").split()
    if done.status or len(told) != len(paths):
        raise CommandFailed(command, done.status, done.stdout, done.stderr)
    return [str(path) for path, answer in zip(paths, told, strict=True) if answer != "readable"]


async def _interface(visit: Visit) -> Finding:
    """Starts what the next checks try to reach: it answers until the visit is over."""
    if visit.python is None:
        return "skipped", "needs the code to be deployed"
    profile = visit.site.profile
    network = "127.0.0.1" if profile.scheduler == "local" else profile.interface or ANY_NETWORK
    await visit.site.shell.put(visit.folder / "greeting", visit.greeting)
    command = [
        str(visit.python),
        "-m",
        "tokenstorm.cluster.setup.echo",
        str(visit.folder),
        network,
        f"{ECHO_SECONDS:.0f}",
    ]
    node = await visit.node("cpu")
    echo = asyncio.create_task(node.run(command))
    visit.stack.push_async_callback(_cancel, echo)
    if not await _appears(visit, "address.json", echo):
        words = echo.result().stderr.decode(errors="replace").strip() if echo.done() else "its address was not seen"
        return "failed", f"nothing could be made to listen on a node: {words}"
    visit.address = msgspec.json.decode(await visit.site.shell.get(visit.folder / "address.json"), type=dict[str, str])
    if "error" in visit.address:
        return "failed", visit.address["error"]
    where = f"{visit.address['node']} listens on {visit.address['host']}"
    if profile.interface is None and profile.scheduler != "local":
        return "ok", f"{where}: its own choice, since the profile names no interface"
    return "ok", where


async def _cancel(echo: "asyncio.Task[Output]") -> None:
    """End the program and its process: the event loop may close right after."""
    echo.cancel()
    await asyncio.wait((echo,))


async def _direct(visit: Visit) -> Finding:
    shell = visit.site.shell
    if problem := await _greeted(visit, shell.open_connection):
        return (
            "failed",
            f"no connection from here to {visit.address['host']}: {problem}; ask the site whether TCP forwarding, or `srun --overlap`, is allowed",
        )
    way = f" {shell.reach.way}" if isinstance(shell, Remote) else ""
    return "ok", f"{visit.address['host']} is reached from here{way}"


async def _relayed(visit: Visit) -> Finding:
    return await _by_relay(visit, "by_relay", "a command on the login node")


async def _inside(visit: Visit) -> Finding:
    return await _by_relay(visit, "from_inside", "a command beside a job")


async def _by_relay(visit: Visit, way: Literal["by_relay", "from_inside"], what: str) -> Finding:
    """Try the relay, which is needed where the server forwards nothing. Its failure alone stops no run."""
    if not isinstance(visit.site.shell, Remote):
        return "skipped", "there is no login node on the way"
    if problem := await _greeted(visit, getattr(visit.site.shell.reach, way)):
        return "warning", f"{what} does not reach it: {problem}"
    return "ok", f"{what} reaches it"


async def _greeted(visit: Visit, connect: Opening) -> str | None:
    """What is wrong with a way to the program that the visit started on a node; None when it answers."""
    host, port = visit.address["host"], int(visit.address["port"])
    try:
        async with asyncio.timeout(REACH_SECONDS):
            reader, writer = await connect(host, port)
            heard = await reader.read(len(visit.greeting))
            writer.close()
    except TimeoutError:
        return f"no answer in {REACH_SECONDS:g} s"
    except (OSError, ClusterError) as error:
        return str(error)
    if heard != visit.greeting:
        return f"something else than our program answers at {host}:{port}: is another network meant by `interface`?"
    return None


ON_NODES = (
    Step("compute node", _node, ("base path", "cpu partition")),
    Step("python", _python, ("compute node",)),
    Step("code", _code, ("python",)),
    Step("container", _container, ("compute node",)),
    Step("recipe", _recipe, ("compute node",)),
    Step("interface", _interface, ("code",)),
    Step("reach", _direct, ("interface",)),
    Step("reach by relay", _relayed, ("interface",), "slurm"),
    Step("reach inside job", _inside, ("interface",), "slurm"),
)
