import json
from pathlib import Path

import pytest

import tokenstorm

ROOT = Path(__file__).resolve().parents[2]
VENDOR = Path(tokenstorm.__file__).parent / "browser" / "vendor"
LOCK = json.loads((ROOT / "package-lock.json").read_text())


@pytest.mark.parametrize("name", [name for name in LOCK["packages"] if name])
def test_a_package_of_npm_is_pinned_by_hash_and_names_no_registry(name: str) -> None:
    assert LOCK["packages"][name]["integrity"].startswith("sha512-")
    assert "resolved" not in LOCK["packages"][name]


@pytest.mark.parametrize("name", ["htm", "uPlot"])
def test_a_checkout_has_what_the_page_needs_with_its_licence(name: str) -> None:
    assert (VENDOR / f"{name}.js").stat().st_size > 10_000
    assert "ermission" in (VENDOR / f"{name}.LICENSE").read_text()


def test_every_module_of_the_page_is_asked_for_at_once() -> None:
    page = VENDOR.parent / "page"
    index = (page / "index.html").read_text()
    wanted = {f"page/{path.name}" for path in page.glob("*.js")} | {"vendor/htm.js"}
    assert not [name for name in wanted if f'href="{name}"' not in index and f'src="{name}"' not in index]
