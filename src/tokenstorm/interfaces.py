"""This machine: its name, its clock, and its addresses: which one to listen on where a profile names a network."""

import ctypes
import ipaddress
import os
import socket
from pathlib import Path

from tokenstorm.errors import UsageError

ANY_NETWORK = "auto"
"""Instead of a network: the address by which other machines know this one."""
_A_PUBLIC_ADDRESS = ("192.0.2.1", 9)
"""Nothing is sent there: the kernel is asked which of our addresses it would send from."""

Address = tuple[str, str]
"""The name of an interface, and one of its IP addresses."""


class _Ifaddrs(ctypes.Structure):
    pass


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other_end", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def node_name() -> str:
    """This node's name: the one that Slurm gave it, which need not be what the machine calls itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def machine_clock() -> str:
    """A name for this machine's monotonic clock: two processes with the same name read the same clock."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return socket.gethostname()


def local_address(network: str) -> str:
    """The IP address of this machine in a network: an interface's name, a CIDR, `auto`, or an address as it is.

    Raises `UsageError` that lists what this machine has.
    """
    if network == ANY_NETWORK:
        return _known_address()
    try:
        wanted = ipaddress.ip_network(network, strict=False)
    except ValueError:
        found = [address for name, address in addresses() if name == network]
    else:
        if "/" not in network:
            return network
        found = [address for _, address in addresses() if ipaddress.ip_address(address) in wanted]
    if not found:
        there = ", ".join(f"{name} {address}" for name, address in addresses())
        message = f"{node_name()} has no address in the network {network!r}: set `interface` to one of {there}"
        raise UsageError(message)
    return found[0]


def interface_of(address: str) -> str:
    """The name of the interface that has an address of this machine; nothing where none has."""
    return next((name.partition(":")[0] for name, found in addresses() if found == address), "")


def addresses() -> list[Address]:
    """Every address of this machine that needs no zone, IPv4 before IPv6, in the order of the interfaces."""
    return sorted(((name, address) for name, address, _ in _entries()), key=lambda pair: ":" in pair[1])


def networks() -> list[str]:
    """The networks that this machine has an address in, as CIDRs, without loopback."""
    found = []
    for _, address, mask in _entries():
        if mask is not None and not _is_loopback(address):
            bits = int(ipaddress.ip_address(mask)).bit_count()
            network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
            found += [str(network)] if network.num_addresses > 1 else []
    return list(dict.fromkeys(found))


def _entries() -> list[tuple[str, str, str | None]]:
    """Name, address and netmask of each entry of the kernel's list that has an address of use."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.POINTER(_Ifaddrs)()
    if libc.getifaddrs(ctypes.byref(head)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    found = []
    try:
        entry = head
        while entry:
            if entry.contents.address and (address := _address(entry.contents.address)):
                mask = _address(entry.contents.netmask) if entry.contents.netmask else None
                found.append((entry.contents.name.decode(), address, mask))
            entry = entry.contents.next
    finally:
        libc.freeifaddrs(head)
    return found


def _address(pointer: int) -> str | None:
    family = ctypes.c_ushort.from_address(pointer).value
    if family == socket.AF_INET:
        return socket.inet_ntop(family, ctypes.string_at(pointer + 4, 4))
    if family == socket.AF_INET6:
        address = socket.inet_ntop(family, ctypes.string_at(pointer + 8, 16))
        return None if ipaddress.ip_address(address).is_link_local else address
    return None


def _known_address() -> str:
    """What our name stands for, else what we would send from, else whatever we have that is not loopback."""
    ours = [address for _, address in addresses()]
    try:
        named = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        named = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_A_PUBLIC_ADDRESS)
            routed = [str(probe.getsockname()[0])]
        except OSError:
            routed = []
    usable = (address for address in [*filter(named.__contains__, ours), *routed, *ours] if not _is_loopback(address))
    return next(usable, "127.0.0.1")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
