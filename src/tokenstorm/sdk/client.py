"""The client, sync and async. What they call is described in `calls` and `waits`; here is only how it is sent."""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
import msgspec

from tokenstorm.errors import NOT_JSON, ApiError, UsageError
from tokenstorm.result import Result
from tokenstorm.sdk import calls, waits
from tokenstorm.sdk.addresses import CLIENT_URL, SERVER_URL, base_of, trusts_proxies
from tokenstorm.sdk.calls import Api, Call
from tokenstorm.sdk.events import GroupEvent, Reader
from tokenstorm.sdk.lines import read_alines, read_lines

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""A stream of events is broken when it is silent for longer: the API says something every 5 s."""
_LIMITS = httpx.Limits(max_connections=100, keepalive_expiry=4.0)
"""The APIs close idle connections after 5 s; one that is retired before is never found closed."""


class _Wire:
    """The addresses of the two APIs, and how requests to them look."""

    def __init__(self, server_url: str = SERVER_URL, client_url: str = CLIENT_URL, *, token: str | None = None) -> None:
        self._urls: dict[Api, str] = {"server": base_of(server_url), "client": base_of(client_url)}
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def _options(self, call: Call[Any], silence: float | None = None) -> dict[str, Any]:
        """The arguments of an httpx request."""
        kind = {} if call.body is None else {"content-type": "application/json"}
        return {
            "method": call.method,
            "url": f"{self._urls[call.api]}{call.path}",
            "params": {name: value for name, value in call.query.items() if value is not None},
            "headers": {**self._headers, **kind, **call.headers},
            "content": None if call.body is None else _json(call.body),
            "timeout": httpx.Timeout(silence or call.seconds, connect=CONNECT_SECONDS),
        }

    def _read(self, call: Call[T], answer: httpx.Response) -> T:
        if not answer.is_success:
            raise calls.refusal(call, answer.status_code, answer.content)
        return call.read(answer.content)

    @contextmanager
    def _translate_errors(self, call: Call[Any]) -> Iterator[None]:
        """What httpx raises, as ours."""
        url = self._urls[call.api]
        try:
            yield
        except httpx.ConnectError as error:
            api = "Server API" if call.api == "server" else "Client API"
            message = (
                f"the {api} at {url} is not reachable ({error}): start it with `tokenstorm up`, or give its address"
            )
            raise ApiError(message, sent=False) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            message = f"{call.method} {url}{call.path} had no answer: {error or type(error).__name__}"
            raise ApiError(message) from None


def _named(method: T, make: Callable[..., object]) -> T:
    """A method that tells of itself what its description does."""
    functools.update_wrapper(method, make, assigned=("__name__", "__doc__"), updated=())  # type: ignore[arg-type]
    del method.__wrapped__  # type: ignore[attr-defined]
    own = inspect.signature(make)
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = own.replace(parameters=[self, *own.parameters.values()], return_annotation=own.empty)  # type: ignore[attr-defined]
    return method


def _sync(make: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    def send(self: "Client", /, *args: P.args, **options: P.kwargs) -> T:
        return self.send(make(*args, **options))

    return _named(send, make)


def _sync_wait(make: Callable[P, waits.Steps[T]]) -> Callable[Concatenate["Client", P], T]:
    def follow(self: "Client", /, *args: P.args, **options: P.kwargs) -> T:
        return self.follow(make(*args, **options))

    return _named(follow, make)


def _async(make: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    async def send(self: "AsyncClient", /, *args: P.args, **options: P.kwargs) -> T:
        return await self.send(make(*args, **options))

    return _named(send, make)


def _async_wait(make: Callable[P, waits.Steps[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    async def follow(self: "AsyncClient", /, *args: P.args, **options: P.kwargs) -> T:
        return await self.follow(make(*args, **options))

    return _named(follow, make)


class Client(_Wire):
    """Both APIs, each call a method. Everything raises `ApiError`; nothing is retried but in waits.

    with Client() as client:
        service = client.create_service("inference/sim-single-node")
        client.wait_until_ready(service.id)
        group = client.create_group(service_id=service.id, num_clients=10, prompts=["Hello"])
        client.wait_until_stopped(group.group_id)
        print(client.results(group.group_id).rates.achieved_rps)
    """

    def __init__(self, server_url: str = SERVER_URL, client_url: str = CLIENT_URL, *, token: str | None = None) -> None:
        super().__init__(server_url, client_url, token=token)
        self._http = {
            api: httpx.Client(trust_env=trusts_proxies(url), limits=_LIMITS) for api, url in self._urls.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up connections."""
        for http in self._http.values():
            http.close()

    def send(self, call: Call[T]) -> T:
        """Make a call."""
        with self._translate_errors(call):
            answer = self._http[call.api].request(**self._options(call))
        return self._read(call, answer)

    def follow(self, steps: waits.Steps[T]) -> T:
        """Make calls and pauses as they come, to the result."""
        answer: Any = None
        failure: ApiError | None = None
        while True:
            try:
                step = steps.throw(failure) if failure else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = failure = None
            if isinstance(step, float):
                time.sleep(step)
                continue
            try:
                answer = self.send(step)
            except ApiError as error:
                failure = error

    def events(self, group_id: int) -> Iterator[GroupEvent]:
        """A group's changes and seconds as they come; the last is a `Change` that is `final`."""
        reader = Reader()
        call = calls.events(group_id)
        with self._stream(call, SILENCE_SECONDS) as answer, self._translate_errors(call):
            for line in read_lines(answer.iter_bytes()):
                if event := reader.line(line):
                    yield event

    def request_rows(self, group_id: int, form: calls.Rows = "jsonl") -> Iterator[bytes]:
        """Every request of a stopped group, in pieces of the file."""
        call = calls.request_rows(group_id, form)
        with self._stream(call) as answer, self._translate_errors(call):
            yield from answer.iter_bytes()

    def requests(self, group_id: int) -> Iterator[Result]:
        """Every request of a stopped group; one with a `stretch` stands for as many as its `count`."""
        call = calls.request_rows(group_id)
        with self._stream(call) as answer, self._translate_errors(call):
            yield from (_result(line) for line in read_lines(answer.iter_bytes()) if line)

    @contextmanager
    def _stream(self, call: Call[bytes], silence: float | None = None) -> Iterator[httpx.Response]:
        with self._translate_errors(call):
            http = self._http[call.api]
            answer = http.send(http.build_request(**self._options(call, silence)), stream=True)
        try:
            if not answer.is_success:
                with self._translate_errors(call):
                    answer.read()
                raise calls.refusal(call, answer.status_code, answer.content)
            yield answer
        finally:
            answer.close()

    create_service = _sync(calls.create_service)
    dry_run_service = _sync(calls.dry_run_service)
    list_services = _sync(calls.list_services)
    get_service = _sync(calls.get_service)
    get_service_status = _sync(calls.get_service_status)
    stop_service = _sync(calls.stop_service)
    get_service_logs = _sync(calls.get_service_logs)
    get_service_metrics = _sync(calls.get_service_metrics)
    get_service_targets = _sync(calls.get_service_targets)
    get_access = _sync(calls.get_access)
    list_service_groups = _sync(calls.list_service_groups)
    get_service_group = _sync(calls.get_service_group)
    list_recipes = _sync(calls.list_recipes)
    get_recipe = _sync(calls.get_recipe)
    list_vllm_services = _sync(calls.list_vllm_services)
    get_models = _sync(calls.get_models)
    prompt = _sync(calls.prompt)
    get_orchestrator = _sync(calls.get_orchestrator)
    create_group = _sync(calls.create_group)
    dry_run_group = _sync(calls.dry_run_group)
    list_groups = _sync(calls.list_groups)
    get_group = _sync(calls.get_group)
    run_group = _sync(calls.run_group)
    run_groups = _sync(calls.run_groups)
    stop_group = _sync(calls.stop_group)
    delete_group = _sync(calls.delete_group)
    get_group_metrics = _sync(calls.get_group_metrics)
    get_group_targets = _sync(calls.get_group_targets)
    get_group_logs = _sync(calls.get_group_logs)
    get_report = _sync(calls.get_report)
    get_series = _sync(calls.get_series)
    observe_group = _sync(calls.observe_group)
    results = _sync(calls.results)
    wait_until_ready = _sync_wait(waits.until_ready)
    wait_until_stopped = _sync_wait(waits.until_stopped)


class AsyncClient(_Wire):
    """`Client` for asyncio: the same methods, awaited, and iterators that are asynchronous.

    `http` sends its requests, where it is given, and is closed with it.
    """

    def __init__(
        self,
        server_url: str = SERVER_URL,
        client_url: str = CLIENT_URL,
        *,
        token: str | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(server_url, client_url, token=token)
        self._http = {
            api: http or httpx.AsyncClient(trust_env=trusts_proxies(url), limits=_LIMITS)
            for api, url in self._urls.items()
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up connections."""
        for http in self._http.values():
            await http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Make a call."""
        with self._translate_errors(call):
            answer = await self._http[call.api].request(**self._options(call))
        return self._read(call, answer)

    async def follow(self, steps: waits.Steps[T]) -> T:
        """Make calls and pauses as they come, to the result."""
        answer: Any = None
        failure: ApiError | None = None
        while True:
            try:
                step = steps.throw(failure) if failure else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = failure = None
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            try:
                answer = await self.send(step)
            except ApiError as error:
                failure = error

    async def events(self, group_id: int) -> AsyncIterator[GroupEvent]:
        """A group's changes and seconds as they come; the last is a `Change` that is `final`."""
        reader = Reader()
        call = calls.events(group_id)
        async with self._stream(call, SILENCE_SECONDS) as answer:
            with self._translate_errors(call):
                async for line in read_alines(answer.aiter_bytes()):
                    if event := reader.line(line):
                        yield event

    async def request_rows(self, group_id: int, form: calls.Rows = "jsonl") -> AsyncIterator[bytes]:
        """Every request of a stopped group, in pieces of the file."""
        call = calls.request_rows(group_id, form)
        async with self._stream(call) as answer:
            with self._translate_errors(call):
                async for piece in answer.aiter_bytes():
                    yield piece

    async def requests(self, group_id: int) -> AsyncIterator[Result]:
        """Every request of a stopped group; one with a `stretch` stands for as many as its `count`."""
        call = calls.request_rows(group_id)
        async with self._stream(call) as answer:
            with self._translate_errors(call):
                async for line in read_alines(answer.aiter_bytes()):
                    if line:
                        yield _result(line)

    @asynccontextmanager
    async def _stream(self, call: Call[bytes], silence: float | None = None) -> AsyncIterator[httpx.Response]:
        with self._translate_errors(call):
            http = self._http[call.api]
            answer = await http.send(http.build_request(**self._options(call, silence)), stream=True)
        try:
            if not answer.is_success:
                with self._translate_errors(call):
                    await answer.aread()
                raise calls.refusal(call, answer.status_code, answer.content)
            yield answer
        finally:
            await answer.aclose()

    create_service = _async(calls.create_service)
    dry_run_service = _async(calls.dry_run_service)
    list_services = _async(calls.list_services)
    get_service = _async(calls.get_service)
    get_service_status = _async(calls.get_service_status)
    stop_service = _async(calls.stop_service)
    get_service_logs = _async(calls.get_service_logs)
    get_service_metrics = _async(calls.get_service_metrics)
    get_service_targets = _async(calls.get_service_targets)
    get_access = _async(calls.get_access)
    list_service_groups = _async(calls.list_service_groups)
    get_service_group = _async(calls.get_service_group)
    list_recipes = _async(calls.list_recipes)
    get_recipe = _async(calls.get_recipe)
    list_vllm_services = _async(calls.list_vllm_services)
    get_models = _async(calls.get_models)
    prompt = _async(calls.prompt)
    get_orchestrator = _async(calls.get_orchestrator)
    create_group = _async(calls.create_group)
    dry_run_group = _async(calls.dry_run_group)
    list_groups = _async(calls.list_groups)
    get_group = _async(calls.get_group)
    run_group = _async(calls.run_group)
    run_groups = _async(calls.run_groups)
    stop_group = _async(calls.stop_group)
    delete_group = _async(calls.delete_group)
    get_group_metrics = _async(calls.get_group_metrics)
    get_group_targets = _async(calls.get_group_targets)
    get_group_logs = _async(calls.get_group_logs)
    get_report = _async(calls.get_report)
    get_series = _async(calls.get_series)
    observe_group = _async(calls.observe_group)
    results = _async(calls.results)
    wait_until_ready = _async_wait(waits.until_ready)
    wait_until_stopped = _async_wait(waits.until_stopped)


def _json(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"what is to be sent cannot be written as JSON: {error}"
        raise UsageError(message) from None


_DECODER = msgspec.json.Decoder(Result)


def _result(line: str) -> Result:
    try:
        return _DECODER.decode(line)
    except NOT_JSON as error:
        message = f"a request's line cannot be read ({error}): is it another version of tokenstorm that answers?"
        raise ApiError(message) from None
