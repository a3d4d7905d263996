"""Starts a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayTaskError

from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.desired_state import DesiredState, last_stored
from tocsin.pipelines.runtime.control.placement import place_shards
from tocsin.pipelines.runtime.control.ray_client import NAMESPACE
from tocsin.pipelines.runtime.control.supervisor import Supervisor
from tocsin.pipelines.runtime.control.worker_slot import start_worker
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.kafka import librdkafka


class Launch:
    """Starts a pipeline. The first worker starts before the deployment is known, and begins recovery before the supervisor starts.

    Args:
        env, resources, kafka: see `Deployment`.
    """

    def __init__(
        self, pipeline: str, env: Mapping[str, str], resources: Mapping[str, float], kafka: Mapping[str, Any]
    ) -> None:
        self._worker = start_worker(names.worker_slot(pipeline, 0), env, resources)
        self._worker.get_ready.remote(with_reader=not librdkafka.chosen(kafka))

    def prepare(self, deployment: Deployment, **tables: bool) -> tuple[Deployment, int]:
        """Create the topics. Returns the completed deployment and its table's number of shards (0: none yet); see `provisioned`.

        Args:
            deployment: the deployment, as far as it is known without Kafka and without building the pipeline.
            tables: see `provisioned`.
        """
        try:
            prepared: tuple[Deployment, int] = ray.get(self._worker.prepare.remote(deployment, **tables))
            return prepared
        except RayTaskError as reason:
            raise reason.cause from reason

    def go(self, deployment: Deployment) -> Any:
        """Have the worker recover its shards, then start the supervisor, which adopts the worker. Returns the supervisor.

        Shards that wait for their context are placed by the supervisor.
        """
        if deployment.context:
            return deploy(deployment)
        shards = [id for id in deployment.configs(deployment.plan) if id.pipeline == deployment.name]
        placement = place_shards(shards, deployment.scaling.least, {})
        for id, config in deployment.configs(
            DesiredState(deployment.lake, deployment.id, deployment.plan).plan
        ).items():
            if placement.get(id) == 0:
                self._worker.host.remote(config)
        return deploy(deployment)

    def abandon(self) -> None:
        """End the worker; the pipeline is not started."""
        ray.kill(self._worker)


def deploy(deployment: Deployment) -> Any:
    """Start a deployment's supervisor, or find the one that runs it.

    Raises:
        ConfigError: the stored desired state can't be read.
    """
    # Check it here: the caller gets one line. In the actor the same error would end the supervisor.
    last_stored(deployment.lake, deployment.name)
    name = names.supervisor_actor(deployment.name)
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1, "max_concurrency": 4}
    return ray.remote(**options, num_cpus=0, get_if_exists=True)(Supervisor).remote(deployment)
