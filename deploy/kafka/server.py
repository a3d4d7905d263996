"""Apache Kafka on this machine: one broker, its own controller (KRaft), on 127.0.0.1 alone."""

import fcntl
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

HERE = Path(__file__).parent
INSTALL = "install a Java 17 runtime and Maven, e.g. `apt-get install openjdk-17-jre-headless maven`"
# C1 only: the broker starts in 2.6 s instead of 3.6, takes half the CPU time, and is faster in runs as short as tests.
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class MissingToolError(RuntimeError):
    """Java or Maven is missing on this machine, or too old."""


class KafkaServer:
    """An Apache Kafka broker as a child process. A context manager: starts on entry, stops on exit.

    It ends when the process that started it ends, even if that one is killed. Data survive `kill`: they are in the page cache.

    Args:
        data: Directory of properties, log file and records; created if missing, reused if it holds a broker's data.
        port: Port for clients; 0 takes a free one.
        heap: Java heap, as in `-Xmx`.
        secure: Kafka's settings of a second listener with TLS and SASL, by their names after the prefix
            `listener.name.secure.`, such as `ssl.keystore.location`.
        more: Any other Kafka settings, such as `authorizer.class.name`.

    Attributes:
        port: Port for clients, the same after a restart.
        secure_port: Port of the second listener; 0 if there is none.
        log: Log file, warnings and errors only.
    """

    def __init__(
        self,
        *,
        data: Path,
        port: int = 0,
        heap: str = "512m",
        secure: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data.absolute()
        self.log = self.data / "kafka.log"
        self.port = port or _free_port()
        self._records = self.data / "records"
        self._identity = self._records / "meta.properties"
        self._controller_port = _free_port()
        self._heap = heap
        self._secure = secure
        self._more = more
        self.secure_port = _free_port() if secure else 0
        self._cluster = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running.pid

    def start(self, *, timeout: float = 60) -> None:
        """Start the broker and wait until it serves clients.

        Args:
            timeout: Seconds to wait, at most.

        Raises:
            MissingToolError: Java or Maven is missing or too old.
            RuntimeError: the broker already runs, its jars cannot be resolved, or it ended or timed out before it served clients.
        """
        if self._process:
            raise RuntimeError(f"Kafka on {self.bootstrap_servers} already runs as pid {self.pid}; stop() it first")
        java = [_java(), *JVM, f"-Xmx{self._heap}", f"-XX:SharedArchiveFile={prepared()}", "-cp", classpath()]
        properties = self._configure()
        if not self._identity.exists():
            shutil.copytree(_kept("formatted"), self._records)
            own = re.sub(
                r"cluster\.id=.*", f"cluster.id=tocsin-{random.randbytes(8).hex()}", self._identity.read_text()
            )
            self._identity.write_text(own)
        self._launch(java, properties, timeout)

    def _launch(self, java: list[str], properties: Path, timeout: float) -> None:
        identity = dict(line.split("=", 1) for line in self._identity.read_text().split() if "=" in line)
        self._cluster = identity["cluster.id"]
        # The guard leads a process group that the broker joins, and kills it when the pipe from this process breaks.
        # (PR_SET_PDEATHSIG would fire when the starting *thread* ends.)
        self._guard = subprocess.Popen(["sh", "-c", "read -r _; kill -KILL 0"], stdin=subprocess.PIPE, process_group=0)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=self._guard.pid,
            )  # fmt: skip
        try:
            self._wait_until_it_serves(timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout: float = 30) -> None:
        """Shut the broker down, by SIGKILL if SIGTERM does not end it within `timeout` seconds."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._forget()

    def kill(self) -> None:
        """End the broker by SIGKILL, as a crash would."""
        if self._process:
            self._process.kill()
            self._forget()

    def restart(self) -> None:
        """Stop the broker if it runs, then start it on the same port and data."""
        self.stop()
        self.start()

    def wait(self) -> int:
        """Wait until the broker ends by itself and return its exit status."""
        return self._running.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            status = self._process.poll() if self._process else None
            state = "runs" if status is None else f"has ended with status {status}"
            error.add_note(f"Kafka {state}; its log {self.log} ends: {_last_line(self.log.read_text())}")
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"Kafka on {self.bootstrap_servers} does not run; start() it first")
        return self._process

    def _configure(self) -> Path:
        self.data.mkdir(parents=True, exist_ok=True)
        properties = self.data / "server.properties"
        controller = f"127.0.0.1:{self._controller_port}"
        second = f",SECURE://127.0.0.1:{self.secure_port}" if self._secure else ""
        here = [
            f"listeners=PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}{second}",
            *(f"listener.name.secure.{name}={value}" for name, value in (self._secure or {}).items()),
            *(f"{name}={value}" for name, value in (self._more or {}).items()),
            f"controller.quorum.voters=1@{controller}",
            f"log.dirs={self._records}",
        ]
        properties.write_text((HERE / "server.properties").read_text() + "\n" + "\n".join(here) + "\n")
        return properties

    def _wait_until_it_serves(self, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while not self._serves():
            status = self._running.poll()
            if status is not None or time.monotonic() > give_up:
                what = (
                    f"did not answer within {timeout:g} s"
                    if status is None
                    else f"exited with status {status} at startup"
                )
                raise RuntimeError(
                    f"Kafka on {self.bootstrap_servers} {what}; {self.log} ends: {_last_line(self.log.read_text())}"
                )
            time.sleep(0.05)

    def _serves(self) -> bool:
        """Whether this broker, and not another on its port, reports that it may lead partitions. Its logs are then recovered."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            with KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, bootstrap_timeout_ms=2000) as admin:
                cluster = admin.describe_cluster()
                return cluster["cluster_id"] == self._cluster and bool(cluster["brokers"])
        except (OSError, KafkaError):
            return False

    def _forget(self) -> None:
        assert self._process
        assert self._guard
        assert self._guard.stdin
        self._process.wait()
        self._guard.stdin.close()
        self._guard.wait()
        self._process = self._guard = None


def classpath() -> str:
    """Kafka's jars, copied by Maven on the first use and kept in `target` until the pom changes.

    Returns:
        A Java class path.

    Raises:
        MissingToolError: the jars are not there yet and Maven is missing.
        RuntimeError: Maven cannot resolve them.
    """
    with _only_one():  # Maven's own cache does not support two processes at once
        if not (jars := _kept("jars")).exists():
            _resolve(HERE / "pom.xml", jars)
    return os.pathsep.join(sorted(map(str, jars.glob("*.jar"))))


def prepared() -> Path:
    """The archive of Kafka's loaded classes (Java's CDS), made on the first use beside the jars.

    With this archive and a copy of a formatted data folder, a broker starts in a third of the time.

    Raises:
        MissingToolError, RuntimeError: see `classpath`; or the first broker does not start.
    """
    jars = classpath()
    with _only_one():
        if not (archive := _kept("jsa")).exists():
            with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
                _prepare(jars, archive, Path(scratch))
    return archive


def _prepare(jars: str, archive: Path, scratch: Path) -> None:
    """Format a data folder and run a broker on it once. Later brokers start with a copy of the formatted folder."""
    first = KafkaServer(data=scratch / "data")
    java, properties = [_java(), *JVM, "-Xmx512m"], first._configure()
    done = subprocess.run(
        [*java, "-cp", jars, "kafka.tools.StorageTool", "format", "--config", str(properties), "--cluster-id", "first"],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"Kafka cannot format {first._records}: {_last_line(done.stdout + done.stderr)}")
    shutil.rmtree(_kept("formatted"), ignore_errors=True)
    shutil.copytree(first._records, _kept("formatted"))
    first._launch([*java, f"-XX:ArchiveClassesAtExit={scratch / archive.name}", "-cp", jars], properties, 60)
    first.stop()
    (scratch / archive.name).rename(archive)


def _kept(what: str) -> Path:
    """The path of a file or folder that is kept for this version of the pom."""
    return HERE / "target" / f"{hashlib.sha256((HERE / 'pom.xml').read_bytes()).hexdigest()[:12]}.{what}"


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold the lock of all processes that prepare Kafka in this checkout."""
    (HERE / "target").mkdir(exist_ok=True)
    with open(HERE / "target" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _resolve(pom: Path, jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingToolError(f"Apache Kafka needs Maven for its jars, and `mvn` is not on PATH: {INSTALL}")
    with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
        done = subprocess.run(
            [maven, "--batch-mode", "--quiet", "-Dstyle.color=never", "--file", str(pom),
             "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={scratch}/jars"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            why = next((line for line in done.stdout.splitlines() if line.startswith("[ERROR]")), done.stderr)
            raise RuntimeError(
                f"Maven cannot resolve the jars of {pom}; check that its repository is reachable: {why.strip()}"
            )
        Path(scratch, "jars").rename(jars)


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        raise MissingToolError(f"Apache Kafka needs Java 17, and `java` is not in {home or 'PATH'}: {INSTALL}")
    version = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    major = re.search(r'version "(\d+)', version)
    if major is None or int(major[1]) < 17:
        raise MissingToolError(f"Apache Kafka needs Java 17, and {java} reports {version.splitlines()[:1]}: {INSTALL}")
    return java


def _free_port() -> int:
    # Do not use a port of the kernel's choice. A client that retries while the broker is down could get the broker's
    # port as its local port, and then the broker could not start again.
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on 127.0.0.1 among 100 tried between 20000 and 30000; pass `port`")


def _last_line(output: str) -> str:
    """The last line that is not part of a Java stack trace."""
    lines = [line for line in output.splitlines() if not line.startswith(("\t", "Caused by"))]
    return lines[-1] if lines else "(nothing)"
