"""A group whose code has still to be put on the cluster."""

import asyncio
from pathlib import Path, PurePosixPath
from typing import cast

from groups import api
from tokenstorm.cluster.scheduler import Kind
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.setup.hold import Say


class HandDeployment:
    """A deploy that waits until it is given up."""

    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    async def there(self) -> bool:
        return False

    async def python(self, kind: Kind = "cpu", say: Say | None = None) -> PurePosixPath:
        assert say
        say("waiting for a node of partition cpu: job 7 is pending (Resources)")
        try:
            return await asyncio.Future()
        finally:
            self.given_up.set()


def test_a_group_says_what_the_deploy_that_it_waits_for_is_at_and_gives_it_up_when_it_is_stopped(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        deployment = HandDeployment()
        async with api(tmp_path, deployment=cast("Deployment", deployment)) as client:
            group = await client.create()
            why = (
                "this version of tokenstorm is being put on the cluster: waiting for a node of partition cpu: job 7 is"
            )
            await client.until(group, reason=f"{why} pending (Resources)", status="pending")
            await client.post(f"/{group}/stop")
            info = await client.until(group, status="stopped")
            assert info["outcome"] == "cancelled"
            async with asyncio.timeout(30):
                await deployment.given_up.wait()
            assert client.jobs.submits == []

    asyncio.run(scenario())
