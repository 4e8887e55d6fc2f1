"""What importing the load generator costs: nothing but Python and its three dependencies."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import tokenstorm

HOME = Path(tokenstorm.__file__).parent
LONGEST_CHAIN = 13
BARE_NODE = """
import sys

class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in {"httptools", "msgspec", "tokenstorm", "uvloop", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"{name} is not on a bare node", name=name)

sys.meta_path.insert(0, OnlyTheBase())
"""


@pytest.mark.parametrize(
    "module",
    [
        "loadgen",
        "loadgen.launcher",
        "loadgen.process",
        "loadgen.command",
        "node.__main__",
        "simulator.command",
        "cli",
    ],
)
def test_everything_runs_on_python_and_the_three_dependencies_alone(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"{BARE_NODE}import tokenstorm.{module}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["tokenstorm.loadgen.launcher", "tokenstorm.simulator.command"])
def test_simulator_and_load_generator_do_not_know_each_other(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print(*sys.modules, sep='\\n')"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    other = "tokenstorm.simulator" if "loadgen" in module else "tokenstorm.loadgen"
    assert not [name for name in done.stdout.split() if name.startswith(other)]


def test_only_a_login_by_asyncssh_loads_it() -> None:
    modules = (
        "cli.serve",
        "cli.deploy",
        "cli.doctor",
        "cli.demo",
        "client_api.app",
        "server_api.placed",
        "cluster.opening",
    )
    program = "".join(f"import tokenstorm.{module}\n" for module in modules)
    program += "import sys; sys.exit('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_command_that_asks_an_api_loads_no_web_framework_and_help_not_even_an_event_loop() -> None:
    program = """
import sys
import tokenstorm.cli
assert "asyncio" not in sys.modules
import tokenstorm.cli.service, tokenstorm.cli.group, tokenstorm.cli.recipes
assert not {"fastapi", "starlette", "uvicorn"} & {*sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


PACKAGES = sorted({path.relative_to(HOME).parts[0] for path in HOME.rglob("*.py")})


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_is_read_in_one_sitting_and_a_function_at_one_look(package: str) -> None:
    top = HOME / package
    for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)


def test_a_chain_of_imports_is_short_and_never_a_circle() -> None:
    """What stands in a function or under TYPE_CHECKING counts."""
    graph = imports()
    longest: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():  # raises CycleError, which names the circle
        longest[name] = [name, *max((longest[one] for one in graph.get(name, ()) if one in graph), key=len, default=[])]
    chain = max(longest.values(), key=len)
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_few_modules_load_asyncssh_when_they_are_imported() -> None:
    graph = imports(late=False)
    loading: set[str] = {"asyncssh"}
    while more := {name for name, wanted in graph.items() if wanted & loading} - loading:
        loading |= more
    assert 1 < len(loading) <= 1 + 8, sorted(loading)


def imports(*, late: bool = True) -> dict[str, set[str]]:
    """What each of our modules imports; with `late` also what a function of it imports once it is called."""
    paths = {
        ".".join(path.relative_to(HOME.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in HOME.rglob("*.py")
    }
    return {module: _imported(path, module, paths.keys(), late=late) - {module} for module, path in paths.items()}


def _imported(path: Path, module: str, known: Collection[str], *, late: bool) -> set[str]:
    names: set[str] = set()
    for node in _parts(ast.parse(path.read_text()), late=late):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            source = resolve_name("." * node.level + (node.module or ""), package)
            names |= {one if (one := f"{source}.{alias.name}") in known else source for alias in node.names}
    return names


def _parts(node: ast.AST, *, late: bool) -> Iterator[ast.AST]:
    for part in ast.iter_child_nodes(node):
        yield part
        if late or not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _parts(part, late=late)


def test_the_map_names_every_package_and_every_module_at_the_top() -> None:
    named = set(re.findall(r"`([a-z_]+)(?:/[a-z/]*)?`", (HOME.parents[1] / "ARCHITECTURE.md").read_text()))
    ours = {path.stem for path in HOME.glob("[a-z]*.py")} | {path.parent.name for path in HOME.glob("*/__init__.py")}
    assert not ours - named
