"""How an engine does, by its own account: its health call and its models call, with its key."""

from dataclasses import dataclass
from http import HTTPStatus

import httpx
import msgspec

from tokenstorm.errors import NOT_JSON

from .recipes import Probe


@dataclass(frozen=True)
class Health:
    """What an engine said. `reason` is why it is not well; `late` that it said nothing in time."""

    models: tuple[str, ...] = ()
    reason: str = ""
    late: bool = False

    @property
    def well(self) -> bool:
        """Whether both calls were answered as they should be."""
        return not self.reason


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def ask(client: httpx.AsyncClient, url: str, api_key: str, probe: Probe, *, timeout: float) -> Health:
    """Ask an engine at its base URL. That it does not answer is no error but the answer."""
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        health = await client.get(url + probe.path, headers=headers, timeout=timeout)
        if health.status_code != HTTPStatus.OK:
            return Health(reason=f"{probe.path} answers {health.status_code}")
        models = await client.get(url + probe.models_path, headers=headers, timeout=timeout)
        if models.status_code != HTTPStatus.OK:
            return Health(reason=f"{probe.models_path} answers {models.status_code}")
        return Health(tuple(model.id for model in msgspec.json.decode(models.content, type=_Models).data))
    except httpx.TimeoutException:
        return Health(reason=f"no answer within {timeout:g} s", late=True)
    except httpx.HTTPError as error:
        return Health(reason=str(error) or type(error).__name__)
    except NOT_JSON as error:
        return Health(reason=f"{probe.models_path} is no list of models: {error}")
