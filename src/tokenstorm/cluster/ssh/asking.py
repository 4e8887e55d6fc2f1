"""What a login asks the user for: passwords, codes and passphrases."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

Ask = Callable[[str, bool], str]
"""Asks the user: the prompt, and whether what is typed is shown. It blocks, and is called in a thread."""

TYPING_SECONDS = 180.0
"""How long a login may take that somebody types for."""


async def typed(ask: Ask, prompt: str, shown: bool) -> str:  # noqa: FBT001 - as SSH servers say it of each prompt
    """What the user answers. A thread of its own, which nobody waits for: one who leaves at the prompt may leave."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def tell(said: str) -> None:
        if not answer.done():
            answer.set_result(said)

    def work() -> None:
        said = ask(prompt, shown)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, said)

    threading.Thread(target=work, daemon=True).start()
    return await answer
