"""The live page in headless Chromium: each page's story, contrast, phones, keys, and that nothing comes from elsewhere.

`pytest tests/ui/test_browser.py --screenshots docs/screens` also writes the documentation's pictures.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

pytest.importorskip("nicegui", reason="the live page needs NiceGUI: pip install 'tocsin[ui]'")
pytest.importorskip("selenium", reason="the browser tests need selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.ui import scene
from tests.ui.browser import CONTRAST, LivePage, Person, chromium
from tocsin.deploy.kafka.server import KafkaServer

pytestmark = pytest.mark.slow
PATHS = {
    "/": "Alerts now",
    "/alerts": "evidence",
    "/assets?pipeline=rul": "1,000 assets",
    "/asset?pipeline=rul&key=7": "Last row",
    "/asset?pipeline=occupancy&key=atrium": "co2",
    "/dead-letters": "BadValue",
    "/models": "MLflow is off",
    "/query": "Polars SQL",
}
"""Each page, and a text that it shows once it is complete."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    scene.build_lake(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        browser = chromium()
    except FileNotFoundError as missing:
        pytest.skip(f"the browser tests need {missing}")
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def page(lake: Path) -> Iterator[LivePage]:
    page = LivePage(lake, "--changes")
    for key in ("7", "8", "9"):
        page.order(f"raise {key}")
    yield page
    page.end()


@pytest.fixture
def person(browser: Any, page: LivePage, request: pytest.FixtureRequest) -> Person:
    folder = request.config.getoption("--screenshots")
    browser.set_window_size(1280, 900)
    person = Person(browser, page.url, Path(folder) if folder else None)
    person.open("/")
    person.theme(dark=False)
    person.errors()
    return person


def test_the_overview_shows_pipelines_and_a_new_alert_within_a_second(person: Person, page: LivePage) -> None:
    person.sees("✓ running")
    person.sees("! waiting")
    raised = time.monotonic()
    page.order("raise 101")
    assert person.sees("rul 101") - raised < 1.0
    page.order("clear 101")
    person.waits(lambda: "rul 101" not in person.text, "the cleared alert to leave")
    person.waits(lambda: person.browser.find_elements(By.CSS_SELECTOR, ".spark polyline"), "sparklines")
    person.pictures("overview")
    assert person.errors() == []


def test_an_alert_is_on_screen_within_a_second_of_its_transaction(
    kafka: KafkaServer, create_topic: Callable[..., str], browser: Any, tmp_path: Path
) -> None:
    topic = create_topic("alerts.screen")
    page = LivePage(tmp_path, "--kafka", kafka.bootstrap_servers)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic, retry_backoff_ms=2)
    waits = []
    with closing(producer):
        try:
            producer.init_transactions()
            person = Person(browser, page.url, None)
            person.open("/")
            for n in range(5):
                # Of now: the page shows the newest ones, and other tests' alerts are on this broker, too.
                now, id = datetime.now(UTC), uuid.uuid4().hex
                alert = replace(scene.alert(f"engine{n}"), id=id, pipeline=topic, time=now)
                producer.begin_transaction()
                producer.send(topic, key=b"7", value=alert.value(), headers=alert.headers())
                producer.flush()
                producer.commit_transaction()
                committed = time.monotonic()
                waits.append(person.sees(f"engine{n}", 60) - committed)
        finally:
            page.end()
    assert max(waits[1:]) < 1.0, waits  # before the first one, the page may still look for topics


def test_a_person_acknowledges_with_keys_alone(person: Person) -> None:
    person.open("/alerts")
    person.finds(".ag-row .ag-cell")
    person.finds("input[type=search]").send_keys(Keys.TAB)  # into the grid's header
    active = person.browser.switch_to.active_element
    for key in (Keys.ARROW_DOWN, Keys.SPACE):
        active.send_keys(key)
        active = person.browser.switch_to.active_element
    person.finds("button", "Acknowledge").send_keys(Keys.ENTER)
    person.finds(".q-dialog input").send_keys("Zoë", Keys.TAB, "pump ordered", Keys.TAB, Keys.ENTER)
    person.sees("acknowledged by Zoë")
    person.finds(".ag-cell", "acknowledged")
    person.pictures("alerts")
    assert person.errors() == []


def test_a_person_silences_an_asset(person: Person) -> None:
    person.open("/alerts")
    person.clicks(".ag-cell", "8")
    person.clicks("button", "Silence")
    person.finds('.q-dialog input[maxlength="100"]').send_keys("Zoë")
    person.finds(".q-dialog textarea").send_keys("repair")
    person.clicks(".q-dialog button", "Silence")
    person.sees("silenced by Zoë")


def test_a_thousand_assets_are_drawn_only_where_a_person_looks(person: Person) -> None:
    person.open("/assets?pipeline=rul")
    person.sees("1,000 assets")
    person.finds(".ag-row")
    assert len(person.browser.find_elements(By.CSS_SELECTOR, ".ag-row")) < 120
    gaps = person.browser.execute_async_script("""
        const done = arguments[0], body = document.querySelector('.ag-body-viewport'), gaps = [];
        let last = performance.now(), n = 0;
        const frame = now => {
          gaps.push(now - last); last = now; body.scrollTop += 200;
          ++n < 60 ? requestAnimationFrame(frame) : done(gaps);
        };
        requestAnimationFrame(frame);""")
    assert sorted(gaps)[len(gaps) // 2] < 100, gaps
    person.pictures("assets")
    person.finds("input[type=search]").send_keys("1006")
    person.waits(
        lambda: len(person.browser.find_elements(By.CSS_SELECTOR, ".ag-pinned-left-cols-container .ag-row")) == 1, "one"
    )
    person.clicks(".ag-cell", "1006")
    person.sees("1006 (rul)")
    assert person.errors() == []


def test_an_asset_has_curves_an_explanation_attention_and_frames(person: Person) -> None:
    person.open("/asset?pipeline=rul&key=7")
    person.sees("Explanation")
    person.browser.set_window_size(1280, 1300)
    person.waits(
        lambda: len(person.browser.find_elements(By.CSS_SELECTOR, ".nicegui-echart svg, .nicegui-echart canvas")) >= 2,
        "charts",
    )
    time.sleep(0.5)
    person.pictures("engine")
    person.open("/asset?pipeline=occupancy&key=atrium")
    person.sees("Attention")
    person.theme(dark=True)
    person.open("/asset?pipeline=surprise&key=rov")
    person.sees("Last kept frames")
    person.waits(
        lambda: person.browser.execute_script("return document.querySelector('figure img').naturalWidth") == 160,
        "a frame",
    )
    person.pictures("camera")
    assert person.errors() == []


def test_a_dead_letter_is_shown_and_replayed(person: Person) -> None:
    person.open("/dead-letters")
    person.clicks(".ag-cell", "BadValue")
    person.sees('{"unit": 7, "cycle": 12, "s1": "warm"}')
    person.pictures("dead-letters")
    person.clicks("button", "Replay")
    person.clicks(".q-dialog button", "Replay")
    person.sees("1 replayed")
    person.clicks(".ag-header .ag-checkbox-input-wrapper")
    person.sees("2 dead letters")
    person.clicks("button", "Replay")
    person.sees("Send 2 records to the topic again.")
    person.clicks(".q-dialog button", "Replay")
    person.sees("2 replayed")
    assert person.errors() == []


def test_a_query_has_a_table_and_a_chart(person: Person) -> None:
    person.theme(dark=True)
    person.open("/query")
    box = person.waits(lambda: (found := person.finds("textarea")).is_enabled() and found, "a box to type into")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("SELECT event_time, co2, probability FROM occupancy ORDER BY event_time", Keys.CONTROL, Keys.ENTER)
    person.sees("240 rows", 180)
    person.finds(".nicegui-echart svg")
    person.pictures("query")
    assert person.errors() == []


def test_nothing_comes_from_elsewhere_and_text_has_contrast_in_both_themes(person: Person, page: LivePage) -> None:
    for dark in (False, True):
        person.theme(dark=dark)
        for path, text in PATHS.items():
            person.open(path)
            person.sees(text)
            time.sleep(0.7)  # the theme, and the last texts
            loaded = person.browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert [name for name in loaded if not name.startswith((page.url, "data:", "blob:"))] == [], path
            assert person.browser.execute_script(CONTRAST) == [], f"{path} {'dark' if dark else 'light'}"
            assert person.errors() == [], path


def test_a_phone_shows_every_page_without_scrolling_sideways(person: Person) -> None:
    person.browser.set_window_size(500, 850)  # the narrowest that headless Chromium allows
    for path, text in PATHS.items():
        if path == "/alerts":
            text = "Alerts"
        person.open(path)
        person.sees(text)
        wide, shown = person.browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= shown, path
    person.open("/")
    person.sees("✓ running")
    person.pictures("phone")


def test_every_control_has_a_name(person: Person) -> None:
    for path, text in PATHS.items():
        person.open(path)
        person.sees(text)
        nameless = person.browser.execute_script("""
            const named = e => e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length
              || e.closest('label')?.textContent.trim() || e.closest('.ag-root');
            const controls = [...document.querySelectorAll('a, button, input, textarea, select, [role=img]')];
            return controls.filter(e => e.offsetParent && !named(e)).map(e => e.outerHTML.slice(0, 200));""")
        assert nameless == [], path


def test_a_token_opens_the_page(browser: Any, lake: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct horse battery")
    page = LivePage(lake, "--token-file", str(tmp_path / "token"))
    try:
        person = Person(browser, page.url, None)
        person.open("/query")
        person.finds("#token").send_keys("wrong", Keys.ENTER)
        person.sees("This token is wrong.")
        person.finds("#token").send_keys("correct horse battery", Keys.ENTER)
        person.sees("✓ running")
        assert "battery" not in browser.current_url
        assert browser.execute_script("return document.cookie") == ""  # HttpOnly
    finally:
        page.end()
