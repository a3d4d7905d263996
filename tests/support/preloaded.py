"""The modules that the server of `tests.support.forked` imports in advance; only that server imports this module."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `tocsin` does; Ray reads it on import

import pandas  # noqa: F401 - Arrow imports it
import pydantic_settings  # noqa: F401
import ray  # noqa: F401
import rich.table  # noqa: F401
import typer  # noqa: F401

import tests.crash.job
import tests.crash.process  # noqa: F401
