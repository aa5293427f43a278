"""Fixtures of several files here."""

from .devices import device, emulated

__all__ = ["device", "emulated"]
