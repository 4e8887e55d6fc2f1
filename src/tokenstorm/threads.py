"""Work that may hang, in a thread: neither the event loop nor the end of the process waits for it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T], seconds: float | None) -> T:
    """Run `work` in a daemon thread, for at most `seconds` if given. Raises what `work` raises, or TimeoutError (an OSError).

    `asyncio.to_thread` would not do: at its exit the process waits for those threads, as long as a file system hangs or nobody answers a prompt.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def set_result(value: T) -> None:
        if not result.done():
            result.set_result(value)

    def set_exception(error: BaseException) -> None:
        if not result.done():
            result.set_exception(error)

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            tell(set_exception, error)
        else:
            tell(set_result, value)

    def tell(method: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(method, value)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wait_for(result, seconds)
