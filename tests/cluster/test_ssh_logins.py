"""Who may log in, and how it is told: by the user's own ~/.ssh/config, agent and certificates."""

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from passwords import conversation, site
from sshd import MISSING, SSHD, Kind, Login, sshd
from tokenstorm.cluster.ssh.asking import Ask
from tokenstorm.cluster.ssh.backoff import BackOff
from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable
from waiting import finish, until

pytestmark = [pytest.mark.skipif(SSHD is None, reason=MISSING), pytest.mark.integration]


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    with sshd(tmp_path / "sshd") as login:
        yield login


@contextlib.contextmanager
def agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent of the test's own, which has no keys yet."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", folder / "agent"], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
        while subprocess.run(["ssh-add", "-l"], capture_output=True, check=False).returncode == 2:
            assert process.poll() is None
        yield
    finally:
        process.kill()
        process.wait()


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
    with agent(tmp_path, monkeypatch):
        subprocess.run(["ssh-add", "-q", str(login.ssh.identity_file)], check=True)
        assert logged_in(kind, ssh)


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


def test_a_prompt_is_left_by_ctrl_c_with_a_terminal_as_it_was(dot_ssh: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(dot_ssh / "known_hosts") as there:
            (tmp_path / "config.toml").write_text(
                f'[profiles.p]\nscheduler = "slurm"\nbase_path = "{tmp_path}/base"\n'
                f'[profiles.p.ssh]\nhost = "127.0.0.1"\nport = {there.port}\nuser = "me"\n'
            )
            for command in ("doctor", "up"):
                child, terminal = pty.fork()
                if child == 0:
                    signal.signal(
                        signal.SIGINT, signal.SIG_DFL
                    )  # which shells take from what they run in the background
                    os.environ["TOKENSTORM_CONFIG"] = str(tmp_path / "config.toml")
                    os.execv(sys.executable, [sys.executable, "-m", "tokenstorm", command, "--profile", "p"])
                try:
                    before = termios.tcgetattr(terminal)
                    await conversation(terminal, [("Password: ", "")])
                    await until(lambda: termios.tcgetattr(terminal) != before)  # noqa: B023 - this turn's
                    os.write(terminal, b"\x03")
                    _, status = await asyncio.to_thread(os.waitpid, child, 0)
                    assert os.waitstatus_to_exitcode(status) in {1, 130}
                    assert termios.tcgetattr(terminal) == before
                finally:
                    os.close(terminal)

    finish(scenario())


def test_a_login_that_is_refused_is_tried_four_times_in_ten_minutes_at_most() -> None:
    """Sites ban those who try again and again; `clock` is moved by hand."""
    clock = [0.0]
    back_off = BackOff((0.5,), clock=lambda: clock[0])
    tries = 0
    while clock[0] < 600:
        try:
            back_off.check()
        except Unreachable as error:
            assert "no" in str(error)  # noqa: PT017 - what was said last time
        else:
            tries += 1
            back_off.failed("no", refused=True)
        clock[0] += 0.1
    assert tries == 4


def encrypted(folder: Path) -> Path:
    """A key with the passphrase `phrase`."""
    key = folder / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "phrase", "-f", key], check=True)
    return key


def test_a_passphrase_is_asked_for_once_and_not_where_the_agent_has_the_key(
    dot_ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = encrypted(tmp_path)
    asked: list[str] = []

    def ask(prompt: str, echo: bool) -> str:
        asked.append(prompt)
        return "phrase"

    async def scenario(ssh: Ssh, *, ask: Ask | None) -> None:
        shell = SSHManager(ssh, ask=ask)
        try:
            assert (await shell.run(["true"])).status == 0
        finally:
            await shell.close()

    with sshd(tmp_path / "sshd") as login:
        (tmp_path / "sshd" / "authorized").write_text(Path(f"{key}.pub").read_text())
        ssh = login.ssh.model_copy(update={"identity_file": str(key)})
        finish(scenario(ssh, ask=ask))
        assert asked == [f"Passphrase of {key}: "]
        with pytest.raises(Unreachable, match="refused to log in"):
            finish(scenario(ssh, ask=None))
        with agent(tmp_path, monkeypatch):
            others = [tmp_path / f"other{number}" for number in range(7)]  # more than sshd hears of
            for other in others:
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
                subprocess.run(["ssh-add", "-q", other], check=True)
            subprocess.run(["ssh-keygen", "-q", "-p", "-P", "phrase", "-N", "", "-f", key], check=True)
            subprocess.run(["ssh-add", "-q", key], check=True)
            subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "phrase", "-f", key], check=True)
            finish(scenario(ssh, ask=ask))
            assert len(asked) == 1


def test_the_line_for_an_unknown_key_is_the_one_that_is_looked_for_behind_an_alias(
    kind: Kind, login: Login, dot_ssh: Path
) -> None:
    (dot_ssh / "config").write_text(
        f"Host cluster\n HostName 127.0.0.1\n Port {login.ssh.port}\n User root\n IdentityFile {login.ssh.identity_file}\n"
        " RemoteCommand echo never\n RequestTTY yes\n"
    )
    with pytest.raises(Unreachable, match="SHA256:") as refused:
        logged_in(kind, Ssh(host="cluster"))
    (dot_ssh / "known_hosts").write_text(str(refused.value).rpartition("): ")[2] + "\n")
    assert logged_in(kind, Ssh(host="cluster"))


def test_a_key_file_that_is_away_for_a_while_is_waited_for(kind: Kind, login: Login) -> None:
    key = Path(str(login.ssh.identity_file))

    async def scenario() -> None:
        shell = kind(login.ssh, back_off_seconds=(0.05,))
        try:
            assert (await shell.run(["true"])).status == 0
            away = key.rename(key.with_name("away"))
            for server in login.servers():
                os.kill(server, signal.SIGKILL)
            why = ""
            while "identity_file" not in why:  # until it is seen that the connection is gone
                try:
                    await shell.run(["true"])
                except (Unreachable, Unconfirmed) as error:
                    why = str(error)
            away.rename(key)
            assert (await shell.run(["true"])).status == 0
        finally:
            await shell.close()

    finish(scenario())


def test_a_refusal_names_the_key_and_the_user(kind: Kind, login: Login, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    ssh = login.ssh.model_copy(update={"identity_file": str(tmp_path / "other"), "user": "root"})
    with pytest.raises(Unreachable, match=f"root was not let in by {tmp_path}/other alone"):
        logged_in(kind, ssh)
    with pytest.raises(Unreachable, match=r"ssh\.host and ssh\.port"):
        logged_in(kind, ssh.model_copy(update={"host": "nowhere.invalid"}))
