"""What would be submitted, on the terminal."""

import shlex

from tokenstorm.api.dry_run import DryRun
from tokenstorm.cli.terminal import show_json, show_text


def show_dry_run(found: DryRun, *, as_json: bool) -> None:
    """The script, the commands, the files and the notes: nothing was submitted."""
    if as_json:
        show_json(found)
        return
    parts = [("nothing was submitted: this would be", "")]
    parts += [("submitted by", shlex.join(found.submit))] if found.submit else []
    parts += [("the script", found.script), ("what it runs", shlex.join(found.command))]
    parts += [(one.path, one.content) for one in found.files]
    parts += [("note", note) for note in found.notes]
    show_text("\n\n".join(f"==> {title}\n{text}".rstrip() for title, text in parts))
