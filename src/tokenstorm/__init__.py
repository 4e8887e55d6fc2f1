"""Load tests of AI inference services on HPC clusters, from many nodes as one schedule with one merged result."""

__version__ = "0.1.0"
