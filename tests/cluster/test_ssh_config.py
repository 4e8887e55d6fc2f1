"""Where `ssh HOST true` works the profile works: what the user's ~/.ssh/config may say, for both shells."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sshd import MISSING, SSHD, Kind, Login, sshd
from tokenstorm.cluster.ssh.config import parsed
from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unreachable

has_sshd = pytest.mark.skipif(SSHD is None, reason=MISSING)
ALIAS = "Host cluster\n HostName 127.0.0.1\n Port {port}\n IdentityFile {key}\n"
CONFIGURED: dict[str, str] = {
    "a key that is not there": "Host cluster\n IdentityFile ~/.ssh/none\n" + ALIAS,
    "a certificate that is not there": ALIAS + " CertificateFile ~/.ssh/none-cert.pub\n",
    "known hosts that are not there": ALIAS + " UserKnownHostsFile ~/.ssh/none {known}\n",
    "times": ALIAS + " ConnectTimeout 1m30s\n ServerAliveInterval 30s\n",
    "a match that runs a command": 'Match originalhost cluster exec "test %n = cluster"\n HostName 127.0.0.1\n'
    " Port {port}\n IdentityFile {key}\n",
    "a command that does not match": 'Match exec "false"\n Port 1\n' + ALIAS,
    "a match in the end": ALIAS + "Match final host 127.0.0.1\n ServerAliveInterval 30\n",
    "a file that is included": "Include ~/.ssh/more/*\n",
    "signs and quotes": 'Host="cluster"\nHostName=127.0.0.1\nPort = {port}\nIdentityFile="{key}"\n',
    "a keyword of another system": "IgnoreUnknown UseKeychain,AddKeys*\nUseKeychain yes\n" + ALIAS,
    "tokens": "Host 127.0.0.?\n HostName %h\n Port {port}\n IdentityFile {keys}/%r\n",
    "a name that is made whole": "CanonicalizeHostname yes\nCanonicalDomains invalid\nCanonicalizeFallbackLocal yes\n"
    + ALIAS,
    "a command on the way": "Host cluster\n HostName nowhere.invalid\n HostKeyAlias [127.0.0.1]:{port}\n IdentityFile {key}\n"
    " ProxyCommand {relay} 127.0.0.1 {port}\n",
    "one key and no other": "IdentitiesOnly yes\n" + ALIAS,
    "algorithms": ALIAS + " Ciphers ^aes256-ctr\n KexAlgorithms +diffie-hellman-group14-sha1\n MACs hmac-sha2-256\n",
    "what is for terminals": ALIAS + " RemoteCommand tmux\n RequestTTY force\n LocalForward 1 127.0.0.1:1\n",
    "an address family": ALIAS + " AddressFamily inet\n",
    "an input of nothing": ALIAS + " StdinNull yes\n",
}
RELAY = "#!/bin/sh\nexec python3 -c 'import socket,sys,threading,os\n\
s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n\
def up():\n\
 while b:=os.read(0,65536): s.sendall(b)\n\
 os._exit(0)\n\
threading.Thread(target=up,daemon=True).start()\n\
while b:=s.recv(65536): os.write(1,b)' \"$@\"\n"
WITHOUT_2 = "import os, shlex, sys\nwords = shlex.split(sys.argv[2])[1:]\n\
assert not any(word.startswith('2>') for word in words)\nos.execvp(words[0], words)\n"


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    with sshd(tmp_path / "sshd") as login:
        yield login


def runs(kind: Kind, ssh: Ssh) -> bool:
    async def run() -> bool:
        shell = kind(ssh)
        try:
            async with asyncio.timeout(30):
                return (await shell.run(["true"])).status == 0
        finally:
            await shell.close()

    return asyncio.run(run())


@pytest.fixture
def configure(login: Login, dot_ssh: Path, tmp_path: Path) -> Callable[[str], None]:
    """Write ~/.ssh/config, with what the sshd needs filled in."""

    def write(text: str) -> None:
        keys = tmp_path / "keys"
        keys.mkdir()
        shutil.copy(str(login.ssh.identity_file), keys / "root")
        (tmp_path / "relay").write_text(RELAY)
        (tmp_path / "relay").chmod(0o755)
        shutil.copy(str(login.ssh.known_hosts), dot_ssh / "known_hosts")
        fields = {"port": login.ssh.port, "key": login.ssh.identity_file, "known": login.ssh.known_hosts, "keys": keys}
        (dot_ssh / "more").mkdir()
        (dot_ssh / "more" / "one").write_text(ALIAS.format(**fields))
        (dot_ssh / "config").write_text(text.format(**fields, relay=tmp_path / "relay").replace("~", str(tmp_path)))

    return write


@has_sshd
@pytest.mark.integration
@pytest.mark.parametrize("text", CONFIGURED.values(), ids=CONFIGURED)
def test_where_ssh_gets_in_the_profile_does(kind: Kind, configure: Callable[[str], None], text: str) -> None:
    configure(text)
    host = "127.0.0.1" if "127.0.0.?" in text else "cluster"
    plain = ["ssh", "-o", "BatchMode=yes", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", host, "true"]
    assert subprocess.run(plain, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    assert runs(kind, Ssh(host=host))


@has_sshd
@pytest.mark.integration
def test_a_command_on_the_way_is_started_by_any_shell(
    kind: Kind, configure: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by csh, which does not say as sh does where errors go."""
    configure(CONFIGURED["a command on the way"])
    shell = tmp_path / "shell"
    shell.write_text("#!/usr/bin/env python3\n" + WITHOUT_2)
    shell.chmod(0o755)
    monkeypatch.setenv("SHELL", str(shell))
    assert runs(kind, Ssh(host="cluster"))


@has_sshd
@pytest.mark.integration
def test_a_command_that_knows_host_keys_is_named_with_the_shell_that_asks_it(configure: Callable[[str], None]) -> None:
    configure(ALIAS + " UserKnownHostsFile /dev/null\n KnownHostsCommand /bin/cat {known}\n")
    with pytest.raises(Unreachable, match=r'KnownHostsCommand /bin/cat .*ssh\.shell = "openssh"'):
        runs(SSHManager, Ssh(host="cluster"))
    assert runs(OpenSSH, Ssh(host="cluster"))


@has_sshd
@pytest.mark.integration
def test_a_line_that_ssh_cannot_read_is_told_in_its_own_words(kind: Kind, configure: Callable[[str], None]) -> None:
    configure(ALIAS + " ConnectTimeout soon\n")
    with pytest.raises(Unreachable, match=r"config line 5: invalid time value"):
        runs(kind, Ssh(host="cluster"))


@has_sshd
@pytest.mark.integration
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("ProxyCommand sh -c 'echo the gate is closed >&2; exit 1'", "the gate is closed"),
        ("ProxyJump nowhere.invalid", "nowhere.invalid: "),
        ("ProxyJump root@localhost:{port}", "Host key verification failed"),
        ("ProxyJump 127.0.0.1:1", "port 1: Connection refused"),
        ("ProxyCommand sh -c 'echo hello'", "no way there: what goes there ended, and said nothing"),
    ],
)
def test_what_stops_it_on_the_way_is_told_in_its_own_words(
    kind: Kind, configure: Callable[[str], None], dot_ssh: Path, way: str, said: str
) -> None:
    configure(ALIAS + f" {way}\n")
    if "root@" in way:
        (dot_ssh / "known_hosts").write_text("")
    with pytest.raises(Unreachable) as refused:
        runs(kind, Ssh(host="cluster"))
    assert said in str(refused.value)
    assert "UNKNOWN" not in str(refused.value)


@has_sshd
@pytest.mark.integration
def test_what_the_machine_behind_the_way_says_is_told_whatever_the_way_says(
    kind: Kind, configure: Callable[[str], None]
) -> None:
    """A jump host greets, and that is not why nobody gets in."""
    greets = " ProxyCommand sh -c 'echo Welcome >&2; exec {relay} 127.0.0.1 {port}'\n"
    configure(ALIAS + " KexAlgorithms diffie-hellman-group14-sha1\n" + greets)
    with pytest.raises(Unreachable, match=r"(?i)no matching key exchange") as refused:
        runs(kind, Ssh(host="cluster"))
    assert "no way there" not in str(refused.value)
    assert "UNKNOWN" not in str(refused.value)


@has_sshd
@pytest.mark.integration
def test_a_setting_that_only_ssh_can_do_is_named_with_the_shell_that_does_it(
    configure: Callable[[str], None], login: Login
) -> None:
    configure(ALIAS + " HostbasedAuthentication yes\n")
    Path(str(login.ssh.identity_file)).with_name("authorized").write_text("")
    with pytest.raises(Unreachable, match=r'HostbasedAuthentication yes of your ssh.*ssh\.shell = "openssh"'):
        runs(SSHManager, Ssh(host="cluster"))


@has_sshd
@pytest.mark.integration
def test_without_an_ssh_here_the_configuration_is_read_all_the_same(
    configure: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(ALIAS)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert runs(SSHManager, Ssh(host="cluster"))


@has_sshd
@pytest.mark.integration
@pytest.mark.parametrize(("kept", "file"), [("{known}", "{known}"), ("/dev/null", "ssh.known_hosts of the profile")])
def test_an_unknown_key_is_to_be_added_where_ssh_looks_for_it(
    kind: Kind, configure: Callable[[str], None], login: Login, kept: str, file: str
) -> None:
    known = Path(str(login.ssh.known_hosts))
    configure(ALIAS + f" UserKnownHostsFile {kept}\n")
    known.write_text("")
    with pytest.raises(Unreachable, match="add this line to .*" + file.format(known=known)):
        runs(kind, Ssh(host="cluster"))


def test_a_jump_is_made_as_ssh_makes_it() -> None:
    def proxy(line: str) -> list[str] | None:
        return parsed("a", f"hostname b\nport 22\n{line}\n").proxy()

    batch = ["ssh", "-o", "BatchMode=yes"]
    assert proxy("proxyjump gate") == [*batch, "-W", "[b]:22", "--", "gate"]
    assert proxy("proxyjump x,me@gate:99") == [*batch, "-l", "me", "-p", "99", "-J", "x", "-W", "[b]:22", "--", "gate"]
    assert proxy("proxyjump [::1]:99") == [*batch, "-p", "99", "-W", "[b]:22", "--", "::1"]
    assert proxy("proxyjump none") is None
    shell = os.environ.get("SHELL") or "/bin/sh"
    assert proxy("proxycommand nc %h %p %% %n") == [shell, "-c", "exec nc b 22 % a"]
