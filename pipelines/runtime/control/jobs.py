"""Jobs: commands that run on the head of a Ray cluster, in a copy of a folder. Only the cluster's dashboard has to be reachable."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from tocsin.pipelines.runtime.control.ray_client import refused_token
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.telemetry.logs import one_line

LOOK_S = 0.5
NOT_FOUND = 127
"""The exit status of a shell that does not find a command."""
QUIET = {
    "ray.dashboard.modules.dashboard_sdk": logging.WARNING,
    "ray._private.runtime_env.packaging": logging.WARNING,
    "ray._private.authentication.http_token_authentication": logging.ERROR,  # a cluster need not require a token
}
"""Ray's loggers that report each step of an upload."""


class Jobs:
    """The jobs of a cluster.

    Args:
        address: the dashboard's, such as `http://head:8265`.

    Raises:
        ConfigError: it is not such an address.
        Refused: the cluster requires another token.
        Unavailable: no dashboard answers there.
    """

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://[^\s/]", address):
            raise ConfigError(
                f"Ray at {address}: expected the address of its dashboard, such as http://head:8265, got another one"
            )
        self._address = address
        for name, level in QUIET.items():
            logging.getLogger(name).setLevel(level)
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers this variable and RAY_ADDRESS to its argument
        with self._errors():
            self._client = JobSubmissionClient(address)

    def submit(
        self, command: str, *, name: str, folder: Path, excludes: Sequence[str], variables: Mapping[str, str]
    ) -> str:
        """Submit a command. Returns the job's id.

        Args:
            command: for a shell. Like the variables, it is shown to everyone who sees the dashboard.
            name: how the id begins.
            folder: what the job gets a copy of, without the files that its .gitignore and .rayignore name.
            excludes: further files to leave out, as in .gitignore.

        Raises:
            ConfigError: the folder is too large.
            Refused, Unavailable: as for the class.
        """
        environment = {"working_dir": str(folder), "excludes": [*excludes], "env_vars": dict(variables)}
        with self._errors():
            try:
                return self._client.submit_job(
                    entrypoint=command, submission_id=f"{name}-{uuid.uuid4().hex[:8]}", runtime_env=environment
                )
            except RuntimeError as reason:
                if "status code 413" not in str(reason):
                    raise
                raise ConfigError(
                    f"{folder}: expected at most 100 MiB of compressed files, which Ray's dashboard accepts, got more; leave files "
                    "out by --exclude or .gitignore"
                ) from reason

    def log(self, job: str) -> Iterator[str]:
        """Yield the lines of a job's log, as they come, until the job ends.

        Raises:
            Unavailable: the dashboard does not answer any more. The job goes on.
        """
        seen = 0
        while True:
            with self._errors(f"; job {job} goes on without this command"):
                has_ended = self._client.get_job_status(job).is_terminal()
                lines = self._client.get_job_logs(job).split("\n")
            if not has_ended or not lines[-1]:
                lines.pop()  # it is not complete yet, or empty
            yield from lines[seen:]
            seen = len(lines)
            if has_ended:
                return
            time.sleep(LOOK_S)

    def failure(self, job: str) -> str:
        """Why a job that has ended has failed; empty if it has not."""
        with self._errors():
            info = self._client.get_job_info(job)
        if info.status == JobStatus.SUCCEEDED:
            return ""
        if info.driver_exit_code == NOT_FOUND:
            return "no such command; install Tocsin on every node, and start Ray with it on the PATH"
        return f"{info.status}: {' '.join((info.message or '').split())}"

    @contextmanager
    def _errors(self, consequence: str = "") -> Iterator[None]:
        try:
            yield
        except AuthenticationError:
            raise refused_token(self._address) from None
        except (OSError, RuntimeError, KeyError) as reason:
            raise Unavailable(
                f"Ray at {self._address}: expected a cluster's dashboard, got: {one_line(reason)}; check the address, or "
                f"whether Ray has ended{consequence}"
            ) from reason
