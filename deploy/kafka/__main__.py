"""`python -m tocsin.deploy.kafka`: Apache Kafka in the foreground."""

import argparse
import signal
import sys
from pathlib import Path

from tocsin.deploy.kafka.server import KafkaServer


def main() -> None:
    """Run Apache Kafka until Ctrl-C, SIGTERM or its own end."""
    parser = argparse.ArgumentParser(
        prog="python -m tocsin.deploy.kafka", description="Apache Kafka on 127.0.0.1, until Ctrl-C."
    )
    parser.add_argument("--port", type=int, default=9092, help="port for clients, 0 for a free one (default: 9092)")
    parser.add_argument(
        "--data", type=Path, default=Path(".tocsin/kafka"), metavar="DIR",
        help="folder of the records, kept between runs (default: .tocsin/kafka)",
    )  # fmt: skip
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with KafkaServer(data=arguments.data, port=arguments.port) as kafka:
            print(f"Apache Kafka on {kafka.bootstrap_servers}, data in {kafka.data}; Ctrl-C stops it.", flush=True)
            sys.exit(f"Kafka exited with status {kafka.wait()}; see {kafka.log}")
    except KeyboardInterrupt:
        print("Apache Kafka stopped.")
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
