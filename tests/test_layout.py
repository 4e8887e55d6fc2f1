"""What importing the load generator costs: nothing but Python and its three dependencies."""

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import tokenstorm

HOME = Path(tokenstorm.__file__).parent
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


@pytest.mark.parametrize("package", ["client_api", "httpd", "loadgen", "metrics", "report", "simulator"])
def test_a_file_is_read_in_one_sitting_and_a_function_at_one_look(package: str) -> None:
    files = sorted((HOME / package).glob("*.py"))
    assert files
    for path in files:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)


def test_no_module_needs_itself_not_even_for_its_types() -> None:
    """What stands under TYPE_CHECKING counts."""
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names the circle


def imports() -> dict[str, set[str]]:
    """The modules that each of ours imports, wherever in its text that stands."""
    paths = {
        ".".join(path.relative_to(HOME.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in HOME.rglob("*.py")
    }
    return {module: _imported(path, module, paths.keys()) - {module} for module, path in paths.items()}


def _imported(path: Path, module: str, known: Collection[str]) -> set[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            source = resolve_name("." * node.level + (node.module or ""), package)
            names += [one if (one := f"{source}.{alias.name}") in known else source for alias in node.names]
    return {name for name in names if name in known}
