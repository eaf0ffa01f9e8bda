"""Files of weights of this project and of others: what they record of themselves, and how they become a network."""

from .metadata import load_into, read_metadata
from .metadata import network_of as build_network

__all__ = ["build_network", "load_into", "read_metadata"]
