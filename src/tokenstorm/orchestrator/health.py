"""How an engine is, by its own health call and list of models, asked with its key.

Nothing is generated here, unlike on the node before the engine is ready: that would add to the load that is measured.
"""

from dataclasses import dataclass

import httpx

from tokenstorm.loadgen.models import asked_for, read_models
from tokenstorm.node.readiness import Answer

from .recipe import Probe


@dataclass(frozen=True)
class Health:
    """What an engine answered. `reason` is why it is not well; `late` means that it did not answer in time."""

    models: tuple[str, ...] = ()
    reason: str = ""
    late: bool = False

    @property
    def well(self) -> bool:
        """Whether it answered as it should, in the calls that it has."""
        return not self.reason


async def ask(client: httpx.AsyncClient, url: str, api_key: str, probe: Probe, model: str, *, timeout: float) -> Health:
    """Ask an engine at its base URL. If it does not answer, that is returned, not raised.

    The first of the models is the one that clients ask for: `model`, or its folder if that is what the engine serves.
    """
    headers = {"authorization": f"Bearer {api_key}"}
    bodies = []
    try:
        for path in (probe.path, probe.models_path):
            got = await client.get(url + path, headers=headers, timeout=timeout)
            answer = Answer(got.status_code, got.content)
            if not (answer.good or answer.absent or (answer.denied and path == probe.path)):
                return Health(reason=answer.told(path))
            bodies.append(answer.body if answer.good else b"")
        models = read_models(bodies[1])
        first = asked_for(model, models) or model
        return Health(tuple(dict.fromkeys((first, *models.names))))
    except httpx.TimeoutException:
        return Health(reason=f"no answer within {timeout:g} s", late=True)
    except httpx.HTTPError as error:
        return Health(reason=str(error) or type(error).__name__)
