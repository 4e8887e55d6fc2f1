"""A profile that is open: the shell and the scheduler of the place it names."""

from dataclasses import dataclass

from tokenstorm.cluster.scheduler import Scheduler
from tokenstorm.cluster.shell import Shell
from tokenstorm.config.profile import Profile


@dataclass(frozen=True)
class Site:
    """Where jobs run: this machine or a cluster. Code that has a site need not know which."""

    profile: Profile
    shell: Shell
    scheduler: Scheduler
    has_gpu: bool

    async def close(self) -> None:
        """Close its connections; jobs go on."""
        await self.shell.close()
