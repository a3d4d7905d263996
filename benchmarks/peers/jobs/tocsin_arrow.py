"""Tocsin: the same for Arrow messages. The message's content type says that it is one."""

from benchmarks.peers.jobs.tocsin_windows import pipeline

__all__ = ["pipeline"]
