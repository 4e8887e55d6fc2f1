"""What to tell of a login that was refused, and what to do about it: the same for both shells."""

from tokenstorm.config.profile import Ssh

SILENT = "what goes there ended, and said nothing"
"""What to tell of a jump host, or of another command on the way, that gave no reason."""


def about_a_refusal(ssh: Ssh, host: str) -> str:
    """What to tell of a login that was refused: who asked, by what, and what to do."""
    who = f"{ssh.user} was" if ssh.user else "you were"
    by = f"by {ssh.identity_file} alone, the profile's ssh.identity_file" if ssh.identity_file else "by your keys"
    see = (
        "see that it is the right one"
        if ssh.identity_file
        else "see that `ssh-add -l` lists the right one, or set ssh.identity_file"
    )
    return (
        f"it refused to log in: {who} not let in {by}; {see}, that ssh.user is, and that `ssh {host}` gets in; where it wants a "
        "password or a code, start tokenstorm in a terminal, where it asks for them once"
    )


def about_its_key(file: str, line: str, fingerprint: str) -> str:
    """What to tell of a host whose key is not known: the line that says it, and what to hold it against."""
    return (
        f"its host key is not in {file}, or another one is, which may be an attack. If its fingerprint, "
        f"{fingerprint}, is the one that the site publishes, add this line to {file} (and remove another of "
        f"that name): {line}"
    )
