"""Profiles, which say where jobs run, and the file that holds them."""

from tokenstorm.config.file import LOCAL, Config, load_config
from tokenstorm.config.profile import Container, JobKeys, Kind, Orchestrator, Partitions, Profile, Proxies, Ssh

__all__ = [
    "LOCAL",
    "Config",
    "Container",
    "JobKeys",
    "Kind",
    "Orchestrator",
    "Partitions",
    "Profile",
    "Proxies",
    "Ssh",
    "load_config",
]
