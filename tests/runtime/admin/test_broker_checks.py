"""`tocsin check` and shards report a failed login or a missing right: which login, which right, on what."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from tests.crash.load import messages
from tests.support.hosted import hosted, reaches
from tests.support.secured import PASSWORD, USER, constant, forgive, grant, guarded_server
from tests.support.setups import JOB, Setup
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.cli.deployment import deployed
from tocsin.pipelines.cli.invocation import Invocation
from tocsin.pipelines.runtime.admin.rights import Right, Subject, rights
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.topics import JOURNAL


@pytest.fixture(scope="module")
def guarded(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    """A broker with TLS, a password and ACLs, and the certificate to trust. Users of its other listener have all rights."""
    with guarded_server(tmp_path_factory.mktemp("guarded")) as made:
        yield made


class Guarded(Setup):
    """A set-up whose user needs rights."""

    def __init__(self, folder: Path, server: KafkaServer, trusted: Path) -> None:
        super().__init__(folder, server.bootstrap_servers, shards=2)
        (folder / "password").write_text(PASSWORD)
        self.settings |= {
            "kafka.bootstrap_servers": f"127.0.0.1:{server.secure_port}",
            "kafka.security_protocol": "SASL_SSL",
            "kafka.ssl_cafile": str(trusted),
            "kafka.sasl_mechanism": "PLAIN",
            "kafka.sasl_plain_username": USER,
            "kafka.sasl_plain_password_file": str(folder / "password"),
        }

    def deny(self, operation: str, kind: str, name: str) -> None:
        """Deny the user an operation on a resource."""
        grant(self.bootstrap, [Right(operation, kind, name)], "DENY")

    @property
    def rights(self) -> list[Right]:
        """The rights that a user needs who runs the pipeline."""
        return rights("run", Subject(self.name, self.topic))

    def needed(self) -> None:
        """Grant the fewest rights with which all checks pass."""
        grant(self.bootstrap, self.rights)

    def forgive(self) -> None:
        """Delete all rules."""
        forgive(self.bootstrap)

    def spec(self) -> ShardConfig:
        """Return the config of the first shard."""
        settings = Invocation(sets=[f"{name}={value}" for name, value in self.settings.items()]).settings()
        plan = Plan(JOB, {"name": self.name, "topic": self.topic})
        return ShardConfig(plan, settings.lake.open(), settings.kafka.client_options(), 0, [0, 1])

    def make(self) -> None:
        """Create the topics that a first start would create."""
        self.create(f"alerts.{self.name}", 2)
        self.create(f"{self.topic}.dlq")
        self.create(f"_tocsin.{self.name}", 2, **JOURNAL)


@pytest.fixture
def setup(guarded: tuple[KafkaServer, Path], tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path, *guarded)
    made.create(made.topic, 2)
    yield made
    made.forgive()


@pytest.mark.parametrize("made", [False, True], ids=["before the first start", "after it"])
def test_with_the_rights_that_it_needs_all_is_ok(setup: Guarded, made: bool) -> None:
    setup.needed()
    if made:
        setup.make()
    assert setup.problems() == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"kafka.sasl_plain_password": "guessed"},
            "expected to log in as tocsin, got [Error 58] SaslAuthenticationFailedError",
        ),
        ({"kafka.sasl_mechanism": "SCRAM-SHA-256"}, "expected it to accept kafka.sasl_mechanism = SCRAM-SHA-256, got "),
        ({"kafka.ssl_cafile": "/nowhere/ca.pem"}, "expected the files in kafka.ssl_cafile, ssl_certfile and ssl_keyfile"),
        ({"kafka.security_protocol": "SASL_PLAINTEXT"}, "expected an answer in SASL_PLAINTEXT with PLAIN, got "),
        ({"kafka.security_protocol": "SSL"}, "expected an answer in SSL"),
        ({"kafka.security_protocol": "PLAINTEXT"}, "expected an answer in PLAINTEXT"),
    ],
)  # fmt: skip
def test_who_is_not_let_in_is_told_why_within_seconds(setup: Guarded, given: dict[str, Any], says: str) -> None:
    began = time.monotonic()
    state, said = setup.check(given)["kafka"]
    assert time.monotonic() - began < 15
    assert state == "wrong"
    assert says in said
    assert PASSWORD not in said and "guessed" not in said
    assert said.rsplit("; ", 1)[1].startswith(("correct", "set a mechanism"))


def test_a_broker_that_nobody_vouches_for(setup: Guarded) -> None:
    del setup.settings["kafka.ssl_cafile"]
    state, said = setup.check()["kafka"]
    assert state == "wrong"
    assert "expected a certificate signed by a CA in kafka.ssl_cafile" in said


def test_tls_or_a_login_where_there_is_none(kafka: KafkaServer, setup: Guarded) -> None:
    here = {"kafka.bootstrap_servers": kafka.bootstrap_servers}
    state, said = setup.check(here)["kafka"]
    assert state == "wrong"
    assert "expected TLS, as kafka.security_protocol = SASL_SSL requires" in said
    state, said = setup.check({**here, "kafka.security_protocol": "SASL_PLAINTEXT"})["kafka"]
    assert state == "wrong"
    assert said.endswith("set PLAINTEXT or SSL, because this listener accepts no login")


def test_every_right_is_needed_and_the_line_names_the_one_that_is_missing(setup: Guarded) -> None:
    def check(missing: Right) -> None:
        setup.forgive()
        grant(setup.bootstrap, [right for right in setup.rights if right != missing])
        lines = [said for _, said in setup.problems().values()]
        assert lines, missing
        assert all("grant" in said and missing.name in said for said in lines), (missing, lines)
        assert any(constant(missing.operation) in said for said in lines), (missing, lines)

    creating = [right for right in setup.rights if right.operation == "Create"]
    for right in creating:
        check(right)
    setup.make()
    setup.create(f"alerts.{setup.name}.dlq")
    setup.create(f"_tocsin.alerts.{setup.name}", 1, **JOURNAL)
    for right in setup.rights:
        if right not in creating:
            check(right)


@pytest.mark.parametrize(
    ("operation", "kind", "name", "check", "says"),
    [
        ("Read", "topic", "in.{}", "rights", "got none for READ on topic in.{};"),
        ("Write", "topic", "alerts.{}", "rights", "got none for WRITE on topic alerts.{};"),
        ("Write", "topic", "in.{}.dlq", "rights", "got none for WRITE on topic in.{}.dlq;"),
        ("Write", "topic", "_tocsin.{}", "rights", "got none for WRITE on topic _tocsin.{};"),
        ("Read", "topic", "_tocsin.{}", "rights", "got none for READ on topic _tocsin.{};"),
        ("Write", "transactional-id", "{}/1", "transactional ids", "transactional id {}/1: expected the right to write"),
        ("Read", "group", "tocsin.{}", "transactional ids", "group tocsin.{}: expected the right to read, got none"),
        ("Describe", "topic", "in.{}", "input topic", "topic in.{}: expected to describe it, got TopicAuthorizationFailedError"),
        ("Read", "group", "tocsin.alerts.{}", "landing", "group tocsin.alerts.{}: expected the right to read, got none"),
        ("Write", "transactional-id", "{}/check", "transactions", "expected to try it, got no right"),
        ("DescribeConfigs", "topic", "in.{}", "cleanup policy", "grant this user DESCRIBE_CONFIGS on it"),
    ],
)  # fmt: skip
def test_a_right_that_is_denied(setup: Guarded, operation: str, kind: str, name: str, check: str, says: str) -> None:
    setup.needed()
    setup.make()
    setup.deny(operation, kind, name.format(setup.name))
    found = setup.problems()
    assert [*found] == [check]
    state, said = found[check]
    assert state == ("warning" if check in ("transactions", "cleanup policy") else "wrong")
    assert says.format(setup.name) in said
    assert "grant" in said


def test_who_may_not_read_its_own_outputs_is_warned(setup: Guarded) -> None:
    setup.needed()
    setup.make()
    outputs = f"alerts.{setup.name}", f"{setup.topic}.dlq"
    for topic in outputs:
        setup.deny("Read", "topic", topic)
    found = setup.problems()
    assert {check: state for check, (state, _) in found.items()} == {"rights": "warning", "landing": "wrong"}
    assert "got none for {}".format(", ".join(f"READ on topic {topic}" for topic in outputs)) in found["rights"][1]
    assert f"got none for READ on topic {outputs[0]};" in found["landing"][1]


@pytest.mark.parametrize(
    ("operation", "kind", "name"),
    [
        ("Read", "topic", "in.{}"),
        ("Write", "topic", "alerts.{}"),
        ("Write", "transactional-id", "{}/0"),
    ],
)
def test_a_shard_that_is_denied_a_right_waits_for_a_person_and_goes_on_once_it_has_it(
    setup: Guarded, operation: str, kind: str, name: str
) -> None:
    setup.needed()
    setup.make()
    spec = setup.spec()
    setup.deny(operation, kind, name.format(setup.name))
    with closing(KafkaProducer(bootstrap_servers=setup.bootstrap)) as producer:
        for m in islice(messages(1), 300):
            producer.send(setup.topic, m.value, m.key, m.headers, m.partition)
    with hosted(spec) as shard:
        line = reaches(shard, "refused")
        assert "expected the right to do this, got " in line and "AuthorizationFailedError" in line
        assert "grant it to this user with kafka-acls" in line and "\n" not in line
    setup.forgive()
    setup.needed()
    with hosted(spec) as shard:
        reaches(shard, "running")


def test_a_shard_with_a_wrong_password_is_told_so_and_does_not_wait_for_a_broker(setup: Guarded) -> None:
    setup.settings["kafka.sasl_plain_password"] = "guessed"
    spec = setup.spec()
    limits = {"bootstrap_timeout_ms": 2000}
    with hosted(replace(spec, kafka={**spec.kafka, **limits})) as shard:
        line = reaches(shard, "refused")
    assert f"expected to log in as {USER}, got [Error 58] SaslAuthenticationFailedError" in line
    assert "guessed" not in line


def test_a_topic_that_is_missing_and_may_not_be_made(setup: Guarded) -> None:
    setup.needed()
    setup.deny("Create", "topic", f"_tocsin.{setup.name}")
    (check, (state, said)) = setup.problems().popitem()
    assert (check, state) == ("journal", "wrong")
    made = r"create it with 2 partitions and cleanup.policy=compact and max.message.bytes=\d+, or grant this user CREATE on it"
    assert re.search(f"{made}$", said), said


def test_topics_that_are_there_need_no_right_to_make_them(setup: Guarded) -> None:
    setup.needed()
    setup.make()
    for topic in (f"alerts.{setup.name}", f"{setup.topic}.dlq", f"_tocsin.{setup.name}"):
        setup.deny("Create", "topic", topic)
    assert setup.problems() == {}
    sets = [f"{name}={value}" for name, value in setup.settings.items()] + ["lake.alerts=false"]
    assert deployed(Invocation(sets=sets).settings(), setup.name).partitions == 2


def test_a_shard_in_the_middle_of_a_transaction_is_not_fenced(kafka: KafkaServer, tmp_path: Path) -> None:
    setup = Setup(tmp_path, kafka.bootstrap_servers)
    setup.create(setup.topic)
    setup.create(f"alerts.{setup.name}")
    options = {"bootstrap_servers": setup.bootstrap}
    with closing(clients.producer(options, transactional_id=f"{setup.name}/0")) as shard:
        shard.init_transactions()
        shard.begin_transaction()
        shard.send(f"alerts.{setup.name}", b"alert").get(10)
        assert setup.problems() == {}
        shard.commit_transaction()
    assert [m.value for m in clients.committed(options, [f"alerts.{setup.name}"])] == [b"alert"]
