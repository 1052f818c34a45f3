"""The demo's page in a real browser: its stream ticks, its WebSocket echoes."""

from __future__ import annotations

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.processes import Running

PATIENCE_SECONDS = 15


def test_the_demos_page_works_through_the_gateway(driver: Chrome) -> None:
    first = driver.current_window_handle
    with Running("server", "--demo", ACCESS_LOG="off") as gateway:
        driver.switch_to.new_window("window")
        driver.get(f"http://127.0.0.1:{gateway.port()}/api/v1/demo/")
        wait = WebDriverWait(driver, PATIENCE_SECONDS)
        wait.until(lambda d: d.find_element(By.ID, "events").text)
        driver.find_element(By.TAG_NAME, "button").click()
        wait.until(lambda d: "hello" in d.find_element(By.ID, "echo").text)
        said = [str(entry["message"]) for entry in driver.get_log("browser")]
        assert not [message for message in said if "Uncaught" in message]
        driver.close()
        driver.switch_to.window(first)
