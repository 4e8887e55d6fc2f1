"""File work beside the event loop, in threads that nobody has to wait for: a file system that hangs delays no end."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def beside(work: Callable[[], T], seconds: float | None) -> T:
    """Do `work` in a thread of its own, for at most `seconds` if given; raises what it raises, or TimeoutError (an OSError).

    The loop's own threads would be waited for at the exit of the process, for as long as a file system hangs.
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

    threading.Thread(target=run, name="file-work", daemon=True).start()
    return await asyncio.wait_for(result, seconds)
