"""What would be submitted, shown before it is."""

from typing import Annotated

from tokenstorm.api.answer import Answer, said


class PlannedFile(Answer, frozen=True, kw_only=True):
    """A file that would be written on the cluster."""

    path: Annotated[str, said(None, "/scratch/u1/tokenstorm/services/s0/service.json")]
    content: Annotated[str, said("What would stand in it, without secrets")]


class DryRun(Answer, frozen=True, kw_only=True):
    """A job as it would be submitted. Nothing was: there is no job, no file, and nobody on the cluster was asked."""

    script: Annotated[str, said("The job's script", "#!/usr/bin/env bash\n…")]
    submit: Annotated[tuple[str, ...], said("The command that would submit it; empty on this machine", ["sbatch"])]
    command: Annotated[
        tuple[str, ...],
        said("What the job starts for its purpose: an engine, or the load generator", ["vllm", "serve", "tiny"]),
    ]
    files: tuple[PlannedFile, ...] = ()
    notes: Annotated[tuple[str, ...], said("What will differ, since it is not known yet")] = ()
