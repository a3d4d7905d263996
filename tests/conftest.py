"""Fixtures for all tests: Apache Kafka, topics, the real recordings, and the check that no process is left running."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings
from kafka import KafkaAdminClient

from tests.support.broker import NAMED, Shared, shared
from tocsin.deploy.kafka.server import KafkaServer, MissingToolError

ROOT = Path(__file__).parents[1]
SESSION = "TOCSIN_TEST_SESSION"
SHARED, RED = pytest.StashKey[Shared](), pytest.StashKey[bool]()

# A busy machine is no failure.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

CreateTopic = Callable[..., str]
Once = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="kills in tests/crash (default: 20)")
    parser.addoption("--screenshots", metavar="DIR", help="folder for pictures of the live page, such as docs/screens")


def pytest_configure(config: pytest.Config) -> None:
    """Start the broker that all test processes share."""
    # A shell that runs `make test` in the background makes it ignore SIGINT. Processes that the tests start would inherit that
    # and ignore the SIGINT that the tests send them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[SHARED] = Shared()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the shared broker."""
    if broker := config.stash.get(SHARED, None):
        broker.end(keep=config.stash.get(RED, False))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record whether a test has failed."""
    session.config.stash[RED] = bool(session.testsfailed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Distribute test files that wait for brokers evenly among files that compute, so that some wait while others use the CPU.

    Files of whole commands, which are at the top of `tests`, come first.
    """
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
    waiting = {item.path for item in items if item.get_closest_marker("kafka")}
    files = sorted(dict.fromkeys(item.path for item in items), key=lambda path: len(path.parts))
    kinds = [path for path in files if path in waiting], [path for path in files if path not in waiting]
    place = {path: n / len(kind) for kind in kinds for n, path in enumerate(kind)}
    items.sort(key=lambda item: (place[item.path], item.path in waiting))


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fail if a process that the tests started outlives them, even if it is detached."""
    os.environ[SESSION] = session = uuid.uuid4().hex
    yield
    give_up = time.monotonic() + 10
    while (left := _processes(session)) and time.monotonic() < give_up:
        time.sleep(0.2)
    if left:
        names = "; ".join(f"{process.pid} {' '.join(process.info['cmdline'] or ())[:120]}" for process in left)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        pytest.fail(f"{len(left)} processes were left running by the tests (now killed): {names}", pytrace=False)


@pytest.fixture(autouse=True)
def floats_are_whole() -> Iterator[None]:
    """Restore denormals after each test: training makes torch flush them in the whole process, and later tests need them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


def _processes(session: str) -> list[psutil.Process]:
    """Return live processes that carry the session's mark or descend from this one, except helpers that end with it."""
    descendants = {child.pid for child in psutil.Process().children(recursive=True)}
    left = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        marked = (process.info["environ"] or {}).get(SESSION) == session and process.pid != os.getpid()
        command = " ".join(process.info["cmdline"] or ())
        helper = "resource_tracker" in command or "multiprocessing.forkserver" in command
        if (marked or process.pid in descendants) and process.info["status"] != psutil.STATUS_ZOMBIE and not helper:
            left.append(process)
    return left


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaServer]:
    """Apache Kafka, shared by all tests. A test that stops its broker uses `own_kafka`."""
    alone = None if NAMED in os.environ else Shared()
    try:
        yield shared()
    except MissingToolError as missing:
        if "CI" in os.environ:
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    finally:
        if alone:
            alone.end(keep=bool(request.session.testsfailed))


@pytest.fixture
def own_kafka(kafka: KafkaServer, tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker for one test, which may kill it. It depends on `kafka` so that Java and the jars are present."""
    with KafkaServer(data=tmp_path / "kafka", heap="256m") as own:
        yield own


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` returns a folder shared by all test processes; the first to ask for it fills it with `make`."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], object]) -> Path:
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder := base / name).exists():
                make(aside := tmp_path_factory.mktemp(name))
                aside.rename(folder)
        return folder

    return get


@pytest.fixture
def tracking_uri(once: Once, tmp_path: Path) -> str:
    """The URI of an empty MLflow database in `tmp_path`. It is a copy, since MLflow takes two seconds to create one."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    shutil.copy(once("mlflow", make) / "mlflow.db", tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def create_topic(kafka: KafkaServer) -> CreateTopic:
    """`create_topic(name="topic", *, partitions=1, config=None)` creates a topic with a unique name and returns the name."""

    def create(name: str = "topic", *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
            options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(config or {})}
            admin.create_topics({unique: options}, wait_for_metadata=True)
        return unique

    return create


@pytest.fixture
def topic(create_topic: CreateTopic) -> str:
    """An empty topic of one partition."""
    return create_topic()


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of the real recordings: `TOCSIN_DATA`, or `../shared/data` relative to the repository."""
    path = Path(os.environ.get("TOCSIN_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no recordings in {path}: set TOCSIN_DATA to the directory that holds them")
    return path


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """Number of kills in a crash test: `--kills`."""
    return request.config.getoption("--kills")
