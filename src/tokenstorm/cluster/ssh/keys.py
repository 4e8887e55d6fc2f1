"""The keys that asyncssh logs in with: those of the profile, or those that the user's configuration names."""

from collections.abc import Sequence
from pathlib import Path

import asyncssh

from tokenstorm.cluster.ssh.asking import Ask, typed

_UNREADABLE = (OSError, ValueError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError)


async def only(file: Path, ask: Ask | None) -> dict[str, object]:
    """Asyncssh's options for that key alone, not all that the agent has: servers hear a few and no more. Its passphrase is
    asked for where no agent has it."""
    said: dict[str, object] = {"client_keys": [str(file)]}
    public = _public(file)
    if public is None:
        return said  # an old format, which hides its public part: whatever the agent has is tried too
    said["agent_identities"] = [public]
    try:
        asyncssh.read_private_key(file)
    except _UNREADABLE:  # it has a passphrase
        if ask and not await _agent_has(public):
            said["passphrase"] = await typed(ask, f"Passphrase of {file}: ", False)  # noqa: FBT003
        else:
            said["client_keys"] = []
    return said


def named(files: Sequence[Path], *, alone: bool) -> dict[str, object]:
    """Asyncssh's options for these keys, and with `alone` no others. One that cannot be read is left to the agent, as ssh does."""
    usable = []
    for file in files:
        try:
            asyncssh.read_private_key(file)
        except _UNREADABLE:
            continue
        usable.append(str(file))
    said: dict[str, object] = {"client_keys": usable}
    if alone and (public := [key for file in files if (key := _public(file))]):
        said["agent_identities"] = public
    return said


def _public(file: Path) -> bytes | None:
    """The public part of a key, which may lie beside it."""
    beside = Path(f"{file}.pub")
    try:
        return asyncssh.read_public_key(beside if beside.exists() else file).public_data
    except _UNREADABLE:
        return None


async def _agent_has(public: bytes) -> bool:
    """Whether the user's agent logs in with that key."""
    try:
        agent = await asyncssh.connect_agent()
        try:
            return bool(await agent.get_keys([public]))
        finally:
            agent.close()
            await agent.wait_closed()
    except (OSError, ValueError, asyncssh.Error):
        return False
