"""A real Chromium, without a window, against a gateway in a process of its own.

Where Chromium or its driver is absent these tests are skipped, and only these. Whatever a test
does, afterwards no rule of the page's policy may have been broken, no script may have failed, and
every request must have gone to the gateway, with no token in its address.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.browser.page import Page
from tests.processes import WAIT_SECONDS, Running, free_port

JWT_SECRET = "a secret of these tests that is long enough"
ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--lang=en-US",
)


class Gateway:
    """A gateway process, which can be killed and started again where it was with what it kept."""

    def __init__(self, state: Path, **environ: str) -> None:
        self.port = free_port()
        self._environ = {
            "PORT": str(self.port),
            "STATE_DIR": str(state),
            "RATE_LIMIT": "off",
            "ACCESS_LOG": "off",
            "LOG_LEVEL": "warning,gateway=info",
            **environ,
        }
        self._running = self._start()

    def _start(self) -> Running:
        running = Running(**self._environ)
        try:
            running.wait_for("listening")
        except BaseException:
            running.__exit__(None, None, None)
            raise
        return running

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """As a crash does: nobody is told."""
        self._running.__exit__(None, None, None)

    def start_again(self) -> None:
        self._running = self._start()

    def clear(self) -> None:
        """Leave it running and without open questions."""
        if self._running.process.poll() is not None:
            self.start_again()
        while (listed := self.call("GET", "questions?status=open")[1])["questions"]:
            for question in listed["questions"]:
                assert self.call("DELETE", f"questions/{question['question_id']}")[0] == 200

    def token(self, subject: str, *scopes: str, seconds: float = 3600) -> str:
        claims = {"sub": subject, "scope": " ".join(scopes), "exp": int(time.time() + seconds)}
        return jwt.encode(claims, JWT_SECRET, algorithm="HS256")

    def call(
        self, method: str, path: str, body: object = None, *, as_: str | None = "asker"
    ) -> tuple[int, Any]:
        """Status and JSON of one request by that subject, who may do everything; None: no token."""
        headers = {"Content-Type": "application/json"}
        if as_ is not None:
            token = self.token(as_, "questions:ask", "questions:answer", "events:read", "admin")
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/api/v1/{path}", data, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def ask(
        self, prompt: str, *client_ids: str, as_: str | None = "asker", **members: object
    ) -> dict[str, Any]:
        """A new question, shown to `ana` if nobody is named."""
        question = {"prompt": prompt, "client_ids": client_ids or ["ana"], **members}
        status, body = self.call("POST", "questions", question, as_=as_)
        assert status == 201, body
        assert isinstance(body, dict)
        return body

    def question(self, question_id: str) -> dict[str, Any]:
        status, body = self.call("GET", f"questions/{question_id}")
        assert status == 200, body
        assert isinstance(body, dict)
        return body


class Browser:
    """One browser: windows with the page, and what it logged and asked for since last looked at."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._first = driver.current_window_handle
        self._requests: list[dict[str, Any]] = []

    def open(self, gateway: Gateway, fragment: str = "") -> Page:
        """The page in a new window."""
        self.driver.switch_to.new_window("window")
        self.driver.get(f"{gateway.origin}/approvals{fragment}")
        return Page(self.driver)

    def requests(self) -> list[dict[str, Any]]:
        """Every HTTP request so far: url, method, headers, postData."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"])
        return [each for each in self._requests if each["url"].startswith(("http", "ws"))]

    def answers_sent(self) -> list[dict[str, Any]]:
        """The requests among them that answered a question."""
        requests = self.requests()
        return [each for each in requests if each["url"].endswith("/response")]

    def complaints(self) -> list[str]:
        """What the console said that it must not: broken policy, failed scripts."""
        said = [str(entry["message"]) for entry in self.driver.get_log("browser")]
        bad = ("Content Security Policy", "Uncaught", "Trusted", "violat", "Refused")
        return [message for message in said if any(word in message for word in bad)]

    def leave(self) -> None:
        """Close the windows and forget their cookies."""
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        for handle in self.driver.window_handles:
            if handle != self._first:
                self.driver.switch_to.window(handle)
                self.driver.close()
        self.driver.switch_to.window(self._first)


@pytest.fixture(scope="package")  # Chromium is never quite idle: not longer than needed
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium for all tests, with a profile of its own; nothing is downloaded."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium or chromedriver (Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(driver: Chrome) -> Iterator[Browser]:
    browser = Browser(driver)
    yield browser
    browser.leave()
    assert browser.complaints() == []
    for request in browser.requests():
        assert request["url"].startswith("http://127.0.0.1:")
        assert "eyJ" not in request["url"]  # as every JSON Web Token begins
        assert request["headers"].get("Referer", "") == ""


@pytest.fixture(scope="package")
def signing_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway with a signing key for all tests: starting one takes longer than most of them."""
    gateway = Gateway(tmp_path_factory.mktemp("state"), JWT_SECRET=JWT_SECRET)
    yield gateway
    gateway.kill()


@pytest.fixture
def gateway(signing_gateway: Gateway) -> Iterator[Gateway]:
    """A gateway with a signing key and no open questions."""
    yield signing_gateway
    signing_gateway.clear()


@pytest.fixture
def keyless(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway without one."""
    gateway = Gateway(tmp_path)
    yield gateway
    gateway.kill()


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Page:
    """The page, logged in as ana and live."""
    page = browser.open(gateway)
    page.log_in(gateway.token("ana"))
    page.wait_live()
    return page
