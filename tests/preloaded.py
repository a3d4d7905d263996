"""What the server of `tests.forked` has imported; nobody else imports this."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `tocsin` does: Ray reads it when it is imported

import pandas  # noqa: F401 - Arrow wants it
import pydantic_settings  # noqa: F401
import ray  # noqa: F401
import rich.table  # noqa: F401
import typer  # noqa: F401

import tests.crash.job
import tests.crash.process  # noqa: F401
