"""Who may log in, and how it is told: by the user's own ~/.ssh/config, agent and certificates."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from passwords import site
from sshd import MISSING, SSHD, Kind, Login, sshd
from tokenstorm.cluster.ssh import SSHManager
from tokenstorm.config import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable
from waiting import finish

pytestmark = [pytest.mark.skipif(SSHD is None, reason=MISSING), pytest.mark.integration]


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    with sshd(tmp_path / "sshd") as login:
        yield login


def logged_in(kind: Kind, ssh: Ssh) -> bool:
    async def run() -> bool:
        shell = kind(ssh)
        try:
            async with asyncio.timeout(30):
                return (await shell.run(["true"])).status == 0
        finally:
            await shell.close()

    return asyncio.run(run())


def test_an_alias_of_the_users_own_configuration(kind: Kind, login: Login, dot_ssh: Path) -> None:
    (dot_ssh / "config").write_text(
        f"Host cluster\n HostName 127.0.0.1\n Port {login.ssh.port}\n User root\n"
        f" IdentityFile {login.ssh.identity_file}\n"
    )
    (dot_ssh / "known_hosts").write_text(Path(str(login.ssh.known_hosts)).read_text())
    assert logged_in(kind, Ssh(host="cluster"))


def test_through_a_jump_host(kind: Kind, login: Login, dot_ssh: Path, tmp_path: Path) -> None:
    with sshd(tmp_path / "jump") as jump:
        known = [Path(str(one.ssh.known_hosts)).read_text() for one in (login, jump)]
        (dot_ssh / "known_hosts").write_text("".join(known))
        (dot_ssh / "config").write_text(
            f"Host gate\n HostName 127.0.0.1\n Port {jump.ssh.port}\n IdentityFile {jump.ssh.identity_file}\n"
            f"Host cluster\n HostName 127.0.0.1\n Port {login.ssh.port}\n IdentityFile {login.ssh.identity_file}\n"
            " ProxyJump gate\n"
        )
        assert logged_in(kind, Ssh(host="cluster"))
        servers = jump.servers()
        jump.daemon.kill()
        jump.daemon.wait()
        for server in servers:
            os.kill(server, signal.SIGKILL)
        with pytest.raises(Unreachable):
            logged_in(kind, Ssh(host="cluster"))


def test_a_key_that_only_the_agent_has(
    kind: Kind, login: Login, dot_ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = login.ssh.model_copy(update={"identity_file": None})
    with pytest.raises(Unreachable, match=r"refused to log in.*ssh-add"):
        logged_in(kind, ssh)
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        add = ["ssh-add", str(login.ssh.identity_file)]
        while subprocess.run(add, capture_output=True, check=False).returncode != 0:
            assert agent.poll() is None
        assert logged_in(kind, ssh)
    finally:
        agent.kill()
        agent.wait()


def test_a_certificate_of_the_sites_authority(kind: Kind, dot_ssh: Path, tmp_path: Path) -> None:
    authority, key = tmp_path / "authority", tmp_path / "mine"
    for path in (authority, key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    with sshd(tmp_path / "sshd", f"TrustedUserCAKeys {authority}.pub\n") as login:
        ssh = login.ssh.model_copy(update={"identity_file": str(key)})
        with pytest.raises(Unreachable, match="refused to log in"):
            logged_in(kind, ssh)
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "root", "-V", "+1h", f"{key}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        assert logged_in(kind, ssh)


def test_a_password_and_a_code_are_asked_for_once_on_a_terminal_and_never_again(dot_ssh: Path) -> None:
    async def scenario() -> None:
        asked: list[tuple[str, bool]] = []

        def ask(prompt: str, echo: bool) -> str:
            asked.append((prompt, echo))
            return "123456" if echo else "secret"

        async with site(dot_ssh / "known_hosts") as there:
            ssh = Ssh(host="127.0.0.1", port=there.port, user="me")
            nobody = SSHManager(ssh)
            with pytest.raises(Unreachable, match="in a terminal"):
                await nobody.run(["true"])
            assert asked == []
            shell = SSHManager(ssh, ask=ask)
            assert (await shell.run(["true"])).status == 0
            assert asked == [("Welcome\nPassword: ", False), ("Code: ", True)]
            assert there.typed == [["secret", "123456"]]
            for connection in there.connections:
                connection.abort()
            why = ""
            while "in a terminal" not in why:  # until it is seen that the connection is gone
                try:
                    await shell.run(["true"])
                except (Unreachable, Unconfirmed) as error:
                    why = str(error)
            assert len(asked) == 2
            await shell.close()
            await nobody.close()

    finish(scenario())
