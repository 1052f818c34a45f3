"""Questions of jobs on the approvals page, in a real browser and with a real Temporal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By

from tests.browser.conftest import JWT_SECRET, Browser, Gateway
from tests.browser.page import Card, Page
from tests.temporal_server import required_program

PROCESS = "workflows/business_process_workflow"


class Working(Gateway):
    """Whose callers may start jobs and look at them."""

    def token(self, subject: str, *scopes: str, seconds: float = 3600) -> str:
        return super().token(subject, *scopes, "jobs:read", "jobs:write", seconds=seconds)

    def token_without_jobs(self, subject: str, *scopes: str) -> str:
        return super().token(subject, *scopes)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Working]:
    """A gateway with a signing key, and with a Temporal and a worker of its own."""
    cli = required_program()
    gateway = Working(
        tmp_path_factory.mktemp("state"),
        JWT_SECRET=JWT_SECRET,
        TEMPORAL_ADDRESS="embedded",
        TEMPORAL_CLI=cli,
    )
    yield gateway
    gateway.kill()


def started(page: Page, gateway: Working, prompt: str) -> str:
    """A job of ana's that asks her, as soon as jobs are there; its id."""
    ask = {"prompt": prompt, "client_ids": ["ana"], "options": ["yes", "no"]}
    given = {"steps": [{"id": "approve", "ask": ask}]}

    def accepted() -> str | None:
        status, told = gateway.call("POST", PROCESS, given, as_="ana")
        assert status in (202, 503), told
        return str(told["operation_id"]) if status == 202 else None

    found = page.until(accepted, lambda: "jobs to be there")
    assert found is not None
    return found


def look(card: Card) -> None:
    card.node.find_element(By.CSS_SELECTOR, "dd button").click()


def test_a_question_of_a_job_names_it_and_shows_its_status(
    browser: Browser, working: Working
) -> None:
    page = browser.open(working)
    page.log_in(working.token("ana"))
    page.wait_live()
    job = started(page, working, "Ship it?")
    card = page.card("Ship it?")
    names = [str(each.text) for each in card.node.find_elements(By.TAG_NAME, "dt")]
    assert names == ["Asked", "Expires", "Job", "Step"]
    assert job in card.text
    look(card)
    page.until(lambda: "waiting, 0 % done" in card.text, lambda: "its status")


def test_who_may_not_look_at_the_job_is_told_so(browser: Browser, working: Working) -> None:
    page = browser.open(working)
    page.log_in(working.token_without_jobs("ana", "questions:answer", "events:read"))
    page.wait_live()
    started(page, working, "May it go?")
    card = page.card("May it go?")
    look(card)
    page.until(lambda: "jobs:read" in card.text, lambda: "what is needed for it")
