"""Where recipes are found on this machine, and `tokenstorm recipes`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
import platformdirs

from tokenstorm.api.services import RecipeInfo
from tokenstorm.cli.terminal import show_facts, show_json, show_table, show_text
from tokenstorm.config.file import Config, load_config
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.schemas import recipe_info


def all_recipes(config: Config, folders: Sequence[Path] = ()) -> Recipes:
    """Those that are shipped, the user's own beside the configuration file, and those of further folders."""
    return load_recipes(recipe_folders(config, folders))


def recipe_folders(config: Config, folders: Sequence[Path]) -> list[Path]:
    """Where recipes lie that are not shipped; the later ones win."""
    usual = platformdirs.user_config_path("tokenstorm", appauthor=False)
    own = (config.file.parent if config.file else usual) / "recipes"
    return [*([own] if own.is_dir() else []), *folders]


def recipes(args: argparse.Namespace) -> int:
    """What there is on this machine; no API is asked."""
    found = all_recipes(load_config(), args.recipes)
    chosen = [found.get(args.name)] if args.name else [*found.by_name.values()]
    infos = [recipe_info(recipe) for recipe in chosen]
    if args.json:
        show_json(infos[0] if args.name else infos)
    elif args.name:
        _show_recipe(infos[0])
    else:
        show_table(("RECIPE", "ENGINE", "GPUS", ""), [_row(one) for one in infos])
    return 0


def _row(recipe: RecipeInfo) -> tuple[object, ...]:
    return recipe.name, recipe.engine, recipe.resources.gpu * recipe.resources.nodes, recipe.description


def _show_recipe(recipe: RecipeInfo) -> None:
    resources = recipe.resources
    show_facts(
        [
            ("recipe", recipe.name),
            ("", recipe.description),
            ("engine", recipe.engine),
            ("nodes", resources.nodes),
            ("replicas per node", None if resources.nodes_per_replica else resources.replicas_per_node),
            ("nodes per replica", resources.nodes_per_replica),
            ("GPUs per node", resources.gpu),
            ("time limit", f"{resources.time_limit} min"),
        ]
    )
    show_text("\nparameters, for --set NAME=VALUE:")
    rows = [
        (one.name, one.type, msgspec.json.encode(one.default).decode(), one.description) for one in recipe.parameters
    ]
    show_table(("NAME", "TYPE", "DEFAULT", ""), rows)
