"""What a login asks the user for: passwords, codes and passphrases."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

import asyncssh

Ask = Callable[[str, bool], str]
"""Asks the user: the prompt, and whether what is typed is shown. It blocks, and is called in a thread."""


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


class Asking(asyncssh.SSHClient):
    """Logs in with what the user types, where keys are not enough."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._left = 3

    def kbdint_auth_requested(self) -> str | None:
        return self._once("")

    async def kbdint_challenge_received(
        self, name: str, instructions: str, _lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        said = "".join(f"{text.strip()}\n" for text in (name, instructions) if text.strip())
        answers = []
        for text, shown in prompts:
            answers.append(await typed(self._ask, said + text, shown))
            said = ""
        return answers

    async def password_auth_requested(self) -> str | None:
        return None if self._once("") is None else await typed(self._ask, "Password: ", False)  # noqa: FBT003

    def _once(self, answer: str) -> str | None:
        self._left -= 1
        return answer if self._left >= 0 else None
