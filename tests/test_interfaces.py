"""Which address a launcher listens on, where a profile names a network."""

import ipaddress

import pytest

from tokenstorm import interfaces
from tokenstorm.errors import UsageError
from tokenstorm.hosts import in_url
from tokenstorm.interfaces import addresses, local_address

THERE = [("lo", "127.0.0.1"), ("ib0", "10.4.0.7"), ("eth0", "192.168.3.9"), ("ib0", "fd00::7")]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with two networks."""
    monkeypatch.setattr(interfaces, "addresses", lambda: THERE)
    monkeypatch.setenv("SLURMD_NODENAME", "node7")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("ib0", "10.4.0.7"),
        ("10.4.0.0/16", "10.4.0.7"),
        ("10.4.9.9/16", "10.4.0.7"),
        ("fd00::/8", "fd00::7"),
        ("192.168.3.9", "192.168.3.9"),
        ("172.16.0.1", "172.16.0.1"),
    ],
)
def test_a_network_is_the_address_that_this_machine_has_in_it(network: str, address: str) -> None:
    assert local_address(network) == address


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("network", ["ib7", "172.16.0.0/12", ""])
def test_a_network_that_this_machine_has_not_is_refused_with_those_it_has(network: str) -> None:
    with pytest.raises(UsageError, match=r"node7 .*lo 127\.0\.0\.1, ib0 10\.4\.0\.7, eth0 192\.168\.3\.9"):
        local_address(network)


@pytest.mark.usefixtures("machine")
def test_without_a_network_it_is_one_that_others_reach() -> None:
    assert not ipaddress.ip_address(local_address("auto")).is_loopback


def test_the_loopback_device_of_this_machine_is_found() -> None:
    assert ("lo", "127.0.0.1") in addresses()
    assert local_address("lo") == local_address("127.0.0.0/8") == "127.0.0.1"


def test_an_address_with_colons_is_bracketed_in_a_url() -> None:
    assert (in_url("fd00::7"), in_url("10.4.0.7")) == ("[fd00::7]", "10.4.0.7")
