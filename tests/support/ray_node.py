"""A program: one node of a Ray cluster on 127.0.0.1, until it is killed. Its argument is JSON, options of `RayParams`.

It does what `ray start --block` does. `ray start` itself refuses a node on 127.0.0.1 that is not the head.
"""

import json
import os
import sys
import time

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray listens on all interfaces

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.utils import write_ray_address

options = json.loads(sys.argv[1])
params = RayParams(
    node_ip_address="127.0.0.1",
    min_worker_port=0,
    max_worker_port=0,
    dashboard_agent_listen_port=0,
    object_store_memory=100 << 20,
    include_log_monitor=False,
    **options,
)
node = Node(params, head="gcs_address" not in options, shutdown_at_exit=True, spawn_reaper=True)
write_ray_address(
    node.gcs_address, options["temp_dir"]
)  # jobs look it up there; else they would take any Ray on this machine
print(json.dumps({"address": node.gcs_address, "dashboard": f"http://{node.webui_url}"}), flush=True)
while not node.dead_processes():
    time.sleep(1)
