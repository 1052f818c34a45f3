"""The approvals page as a person uses it: what is read on it, what is clicked and typed.

Nothing here waits for time to pass, only for what the page shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

WAIT_SECONDS = 30
T = TypeVar("T")


class Card:
    """One question on the page, open or decided."""

    def __init__(self, page: Page, node: WebElement) -> None:
        self._page = page
        self.node = node

    @property
    def text(self) -> str:
        return str(self.node.get_property("innerText"))

    @property
    def fate(self) -> str:
        return str(self.node.find_element(By.CSS_SELECTOR, ":scope > p:last-of-type").text)

    def field(self, label: str) -> WebElement:
        """The input with that label."""
        for node in self.node.find_elements(By.CSS_SELECTOR, "div.field > label"):
            if node.get_property("textContent") == label:
                return self.node.find_element(By.ID, str(node.get_attribute("for")))
        raise NoSuchElementException(f"no field {label!r} in {self.text!r}")

    def group(self, legend: str) -> WebElement:
        """The fieldset with that legend."""
        for node in self.node.find_elements(By.TAG_NAME, "fieldset"):
            found = node.find_element(By.TAG_NAME, "legend")
            if found.get_property("textContent") == legend:
                return node
        raise NoSuchElementException(f"no group {legend!r} in {self.text!r}")

    def choices(self, legend: str) -> list[str]:
        """The labels under that legend."""
        nodes = self.group(legend).find_elements(By.CSS_SELECTOR, "label.choice")
        return [str(node.get_property("textContent")) for node in nodes]

    def choose(self, legend: str, label: str) -> None:
        """Click the radio button or checkbox of that name under that legend."""
        for node in self.group(legend).find_elements(By.CSS_SELECTOR, "label.choice"):
            if node.get_property("textContent") == label:
                node.click()
                return
        raise NoSuchElementException(f"no choice {label!r} under {legend!r}")

    def write(self, label: str, text: str) -> None:
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def select(self, label: str, option: str) -> None:
        Select(self.field(label)).select_by_visible_text(option)

    def problem(self, node: WebElement) -> str:
        """What is shown as wrong at this input or fieldset; empty when nothing is."""
        described = str(node.get_attribute("aria-describedby")).split()
        place = self.node.find_element(By.ID, described[-1])
        wrong = node.get_attribute("aria-invalid") == "true"
        assert wrong is place.is_displayed()
        return place.text

    def send(self) -> None:
        self.node.find_element(By.CSS_SELECTOR, "button[type=submit]").click()

    def send_until(self, fate: str) -> None:
        """Send, and wait until the page says that of this question."""
        self.send()
        self._page.until(lambda: fate in self.fate, lambda: f"{fate!r} in {self.text!r}")


class Page:
    """One window with the page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._handle = driver.current_window_handle

    def here(self) -> Page:
        """This window is the one that is looked at."""
        self.driver.switch_to.window(self._handle)
        return self

    def until(self, met: Callable[[], T], what: Callable[[], str]) -> T:
        """The first value of `met` that is true; what it shows may be redrawn meanwhile."""
        self.here()
        wait = WebDriverWait(
            self.driver,
            WAIT_SECONDS,
            poll_frequency=0.05,
            ignored_exceptions=(StaleElementReferenceException, NoSuchElementException),
        )
        try:
            return wait.until(lambda _: met())
        except Exception as error:
            error.add_note(f"expected {what()}; the page shows {self.text!r}")
            raise

    def by_id(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    @property
    def connection(self) -> str:
        return self.by_id("connection").text

    def log_in(self, token: str, client_id: str | None = None) -> None:
        self.by_id("token").send_keys(token)
        if client_id is not None:
            self.by_id("client").clear()
            self.by_id("client").send_keys(client_id)
        self.driver.find_element(By.CSS_SELECTOR, "#login button").click()

    def wait_live(self) -> None:
        self.until(lambda: self.connection == "Live", lambda: "to be live")

    def wait_login(self, why: str) -> None:
        """Until it asks to log in, and says that of the reason."""
        login = self.by_id("login")
        self.until(lambda: login.is_displayed() and why in login.text, lambda: why)

    def cards(self, part: str = "open") -> list[Card]:
        """The questions shown in that part: `open` or `decided`."""
        nodes = self.driver.find_elements(By.CSS_SELECTOR, f"#{part} > article")
        return [Card(self, node) for node in nodes]

    def prompts(self, part: str = "open") -> list[str]:
        nodes = self.driver.find_elements(By.CSS_SELECTOR, f"#{part} > article > .prompt")
        return [str(node.get_property("textContent")) for node in nodes]

    def card(self, prompt: str, part: str = "open") -> Card:
        """The only question with that prompt, as soon as it is there."""

        def found() -> Card | None:
            cards = self.cards(part)
            prompts = [card.node.find_element(By.CLASS_NAME, "prompt") for card in cards]
            texts = [node.get_property("textContent") for node in prompts]
            assert texts.count(prompt) < 2, texts
            return cards[texts.index(prompt)] if prompt in texts else None

        card = self.until(found, lambda: f"{prompt!r} in {part}")
        assert card is not None
        return card
