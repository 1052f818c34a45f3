"""The approvals page in a real browser, from logging in to what became of an answer."""

from __future__ import annotations

import json

import pytest
from selenium.common.exceptions import JavascriptException
from selenium.webdriver import ActionChains, Keys

from tests.browser.conftest import Browser, Gateway
from tests.browser.page import Page

DEPLOY = {
    "type": "object",
    "required": ["approved", "ticket"],
    "properties": {
        "approved": {"type": "boolean", "title": "Approve?"},
        "ticket": {"type": "string", "maxLength": 20, "pattern": "^[A-Z]+-[0-9]+$"},
        "reason": {"type": "string", "maxLength": 500},
    },
}


# From the question to its answer


def test_a_question_appears_live_and_its_answer_is_recorded(page: Page, gateway: Gateway) -> None:
    assert page.prompts() == []
    asked = gateway.ask("Deploy 2.4.1?", schema=DEPLOY, run_id="run-17", node_id="deploy")
    card = page.card("Deploy 2.4.1?")
    assert "New question from asker: Deploy 2.4.1?" in page.by_id("news").text
    for said in ("From asker", "run-17", "deploy", " d "):
        assert said in card.text
    card.choose("Approve?", "Yes")
    card.write("ticket", "OPS-12")
    card.write("Comment", "looks good")
    card.send()
    decided = page.card("Deploy 2.4.1?", "decided")
    page.until(lambda: "was recorded" in decided.text, lambda: "that it was recorded")
    assert "Answered by ana (you)" in decided.text
    assert '"ticket": "OPS-12"' in decided.text
    assert page.prompts() == []
    question = gateway.question(asked["question_id"])
    assert question["status"] == "answered"
    assert question["answer"]["response"] == {"approved": True, "ticket": "OPS-12"}
    assert question["answer"]["answered_by"] == "ana"


def test_what_was_asked_before_is_listed_over_all_pages_newest_first(
    browser: Browser, gateway: Gateway
) -> None:
    prompts = [f"Question {number}" for number in range(120)]
    for prompt in prompts:
        gateway.ask(prompt)
    page = browser.open(gateway)
    page.log_in(gateway.token("ana"))
    page.until(lambda: len(page.prompts()) == 120, lambda: "120 questions")
    page.wait_live()
    assert page.prompts() == prompts[::-1]
    assert page.driver.title == "(120) Approvals"


def test_every_simple_type_of_a_schema_has_its_input(page: Page, gateway: Gateway) -> None:
    schema = {
        "type": "object",
        "required": ["size", "level", "who"],
        "$defs": {"size": {"enum": ["small", "large"], "description": "Of the machine"}},
        "properties": {
            "size": {"$ref": "#/$defs/size"},
            "level": {"enum": list(range(1, 12))},
            "regions": {"type": "array", "items": {"enum": ["eu", "us", "ap"]}},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "count": {"type": "integer", "minimum": 1, "default": 3},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "urgent": {"type": "boolean"},
            "who": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "maxLength": 40}, "day": {"type": "string"}}},
            "tags": {"type": "array", "items": {"type": "string"}},
            "__proto__": {"type": "string"},
        },
    }  # fmt: skip
    asked = gateway.ask("All of it?", schema=schema)
    card = page.card("All of it?")
    assert card.choices("size") == ["small", "large"]
    assert "Of the machine" in card.group("size").text
    assert card.choices("urgent") == ["Yes", "No", "(no answer)"]
    assert card.field("level").tag_name == "select"
    assert card.field("note").tag_name == "textarea"
    assert card.field("count").get_property("value") == "3"
    assert "at least 0, at most 1" in card.text
    card.choose("size", "large")
    card.select("level", "7")
    card.choose("regions", "eu")
    card.choose("regions", "ap")
    card.write("share", "0.25")
    card.write("name", "Zoë")
    card.write("tags", '["a", "b"]')
    card.write("__proto__", "just a name")
    card.send()
    page.card("All of it?", "decided")
    assert gateway.question(asked["question_id"])["answer"]["response"] == {
        "size": "large",
        "level": 7,
        "regions": ["eu", "ap"],
        "share": 0.25,
        "count": 3,
        "who": {"name": "Zoë"},
        "tags": ["a", "b"],
        "__proto__": "just a name",
    }


@pytest.mark.parametrize(
    ("written", "as_json", "recorded"),
    [("yes, but later", False, "yes, but later"), ('{"later": true}', True, {"later": True})],
)
def test_without_a_schema_an_answer_is_text_or_json(
    page: Page, gateway: Gateway, written: str, as_json: bool, recorded: object
) -> None:
    asked = gateway.ask("What now?")
    card = page.card("What now?")
    card.write("Your answer", written)
    if as_json:
        card.node.find_element("css selector", "label.choice").click()
    card.send()
    page.card("What now?", "decided")
    assert gateway.question(asked["question_id"])["answer"]["response"] == recorded


def test_options_can_be_answered_with_the_keyboard_alone(page: Page, gateway: Gateway) -> None:
    asked = gateway.ask("Which?", options=["red", "green", "blue"])
    card = page.card("Which?")
    page.driver.execute_script("arguments[0].focus()", card.node)
    keys = ActionChains(page.driver).send_keys(Keys.TAB, Keys.SPACE, Keys.ARROW_DOWN)
    keys.send_keys(Keys.TAB, "because", Keys.TAB, Keys.ENTER).perform()
    decided = page.card("Which?", "decided")
    assert gateway.question(asked["question_id"])["answer"]["response"] == "green"
    page.until(
        lambda: page.driver.switch_to.active_element == decided.node, lambda: "the focus kept"
    )


# What else may become of it


def test_a_second_approver_sees_who_won(browser: Browser, gateway: Gateway) -> None:
    ana, bo = browser.open(gateway), browser.open(gateway)
    for page, name in ((ana, "ana"), (bo, "bo")):
        page.here().log_in(gateway.token(name, "questions:answer"))
        page.wait_live()
    gateway.ask("Which?", "ana", "bo", options=["left", "right"])
    lost = bo.card("Which?")
    lost.choose("Your answer", "right")
    won = ana.here().card("Which?")
    won.choose("Your answer", "left")
    won.send()
    decided = bo.here().card("Which?", "decided")
    assert "Answered by ana," in decided.text
    assert "left" in decided.text
    assert "Answered by ana: Which?" in bo.by_id("news").text


def test_an_answer_that_comes_too_late_is_told_who_won(page: Page, gateway: Gateway) -> None:
    """Nobody tells this page of the decision: the question is shown to another client id."""
    page.by_id("logout").click()
    asked = gateway.ask("Which?", "elsewhere", options=["left", "right"])
    page.log_in(gateway.token("ana", "questions:answer"))
    card = page.card("Which?")
    answered = {"response": "left"}
    status, _ = gateway.call("POST", f"questions/{asked['question_id']}/response", answered)
    assert status == 200
    card.choose("Your answer", "right")
    card.send()
    decided = page.card("Which?", "decided")
    assert "Answered by asker" in decided.text
    assert "Your answer was not recorded." in decided.text


def test_an_expired_question_is_told_as_one(page: Page, gateway: Gateway) -> None:
    gateway.ask("Now or never?", options=["now"], expires_in=2)
    gateway.ask("Now or later?", options=["now", "later"], expires_in=2, default="later")
    assert "later" in page.card("Now or later?").text
    assert "Expired without an answer" in page.card("Now or never?", "decided").text
    default = page.card("Now or later?", "decided").text
    assert "Nobody answered in time; the default holds" in default
    assert default.endswith("later")


def test_a_reminder_is_told_and_the_question_is_still_one(page: Page, gateway: Gateway) -> None:
    gateway.ask("Not forgotten?", reminders=[3599], expires_in=3600)
    page.until(
        lambda: page.by_id("news").text.startswith("Still open, for 59 min"), lambda: "a reminder"
    )
    assert page.prompts() == ["Not forgotten?"]


def test_a_withdrawn_question_leaves(page: Page, gateway: Gateway) -> None:
    asked = gateway.ask("Still needed?")
    page.card("Still needed?")
    assert gateway.call("DELETE", f"questions/{asked['question_id']}")[0] == 200
    assert "Withdrawn" in page.card("Still needed?", "decided").text


def test_votes_that_are_missing_are_told(page: Page, gateway: Gateway) -> None:
    asked = gateway.ask("Both?", approvers=["ana", "bo"], policy="all", options=["yes", "no"])
    card = page.card("Both?")
    assert "an answer of each approver" in card.text
    card.choose("Your answer", "yes")
    card.send_until("1 of 2")
    page.driver.refresh()
    page.log_in(gateway.token("ana"))
    card = page.card("Both?")
    card.choose("Your answer", "no")
    card.send_until("answered already")
    assert page.prompts() == ["Both?"]
    path = f"questions/{asked['question_id']}/response"
    assert gateway.call("POST", path, {"response": "yes"}, as_="bo")[0] == 200
    assert "Answered by" in page.card("Both?", "decided").text


# What is wrong with an answer


def test_what_does_not_fit_is_said_at_its_field(page: Page, gateway: Gateway) -> None:
    asked = gateway.ask("Deploy?", schema=DEPLOY)
    card = page.card("Deploy?")
    card.choose("Approve?", "No")
    card.write("ticket", "no ticket")
    card.send_until("see what is marked")
    ticket = card.field("ticket")
    assert "no ticket" in card.problem(ticket) or "match" in card.problem(ticket)
    assert page.driver.switch_to.active_element == ticket
    assert card.problem(card.group("Approve?")) == ""
    card.write("ticket", "OPS-13")
    card.send()
    page.card("Deploy?", "decided")
    answer = gateway.question(asked["question_id"])["answer"]
    assert answer["response"] == {"approved": False, "ticket": "OPS-13"}


def test_what_is_missing_is_said_before_anything_is_sent(
    page: Page, browser: Browser, gateway: Gateway
) -> None:
    schema = DEPLOY | {
        "properties": DEPLOY["properties"] | {"n": {"type": "integer", "maximum": 9}}
    }
    gateway.ask("Deploy?", schema=schema)
    card = page.card("Deploy?")
    card.write("ticket", "A-" + "1" * 30)
    card.write("n", "10")
    card.send_until("see what is marked")
    assert card.problem(card.group("Approve?")) == "This is needed."
    assert "at most 20" in card.problem(card.field("ticket"))
    assert card.problem(card.field("n")) == "At most 9."
    assert browser.answers_sent() == []


def test_a_question_for_others_is_refused_with_the_reason(page: Page, gateway: Gateway) -> None:
    gateway.ask("For bo?", "ana", approvers=["bo"], options=["yes"])
    card = page.card("For bo?")
    card.choose("Your answer", "yes")
    card.send()
    page.until(lambda: card.fate not in ("", "Sending…"), lambda: "a refusal")
    assert page.prompts("decided") == []


# Trouble on the way


def test_a_double_click_answers_once(page: Page, browser: Browser, gateway: Gateway) -> None:
    gateway.ask("Which?", options=["one"])
    card = page.card("Which?")
    card.choose("Your answer", "one")
    button = card.node.find_element("css selector", "button[type=submit]")
    ActionChains(page.driver).double_click(button).perform()
    assert "was recorded" in page.card("Which?", "decided").text
    assert [request["method"] for request in browser.answers_sent()] == ["POST"]


def test_nothing_is_shown_twice_after_a_gateway_came_back(page: Page, gateway: Gateway) -> None:
    first = gateway.ask("Before?")
    card = page.card("Before?")
    card.write("Your answer", "a draft")
    gateway.kill()
    page.until(lambda: page.connection not in ("", "Live"), lambda: "no connection")
    gateway.start_again()
    page.wait_live()
    gateway.ask("After?")
    page.card("After?")
    assert page.prompts() == ["After?", "Before?"]
    assert card.field("Your answer").get_property("value") == "a draft"
    gateway.call("POST", f"questions/{first['question_id']}/response", {"response": 1})
    page.card("Before?", "decided")
    assert page.prompts() == ["After?"]


def test_what_was_decided_meanwhile_is_known_after_coming_back(
    browser: Browser, page: Page, gateway: Gateway
) -> None:
    asked = gateway.ask("Decided meanwhile?")
    page.card("Decided meanwhile?")
    page.driver.set_network_conditions(offline=True, latency=0, throughput=0)
    gateway.kill()
    page.until(lambda: page.connection not in ("", "Live"), lambda: "no connection")
    gateway.start_again()
    gateway.call("POST", f"questions/{asked['question_id']}/response", {"response": "done"})
    page.driver.delete_network_conditions()
    assert "done" in page.card("Decided meanwhile?", "decided").text


def test_an_answer_is_safe_to_send_again(page: Page, browser: Browser, gateway: Gateway) -> None:
    gateway.ask("Which?", options=["one", "two"])
    card = page.card("Which?")
    card.choose("Your answer", "two")
    gateway.kill()
    card.send_until("not known whether yours was recorded")
    gateway.start_again()
    card.send()
    assert "was recorded" in page.card("Which?", "decided").text
    sent = browser.answers_sent()
    assert len(sent) == 2
    assert len({request["headers"]["Idempotency-Key"] for request in sent}) == 1
    assert [json.loads(request["postData"]) for request in sent] == [{"response": "two"}] * 2


def test_a_token_that_ends_asks_for_another_and_keeps_drafts(
    browser: Browser, gateway: Gateway
) -> None:
    page = browser.open(gateway)
    gateway.ask("Slowly?")
    page.log_in(gateway.token("ana", seconds=8))
    card = page.card("Slowly?")
    card.write("Your answer", "a draft")
    page.wait_login("Log in again")
    page.log_in(gateway.token("ana"))
    page.wait_live()
    assert card.field("Your answer").get_property("value") == "a draft"
    card.send()
    page.card("Slowly?", "decided")


# Logging in


def test_a_bad_token_is_refused_and_an_absent_one_asked_for(
    browser: Browser, gateway: Gateway
) -> None:
    page = browser.open(gateway)
    page.log_in(gateway.token("ana") + "x")
    page.wait_login("not accepted")
    page.log_in("")
    page.wait_login("asks for a token")
    page.log_in(gateway.token("ana"), "not a client id")
    page.wait_login("not a client id")


def test_the_token_stays_in_memory_unless_wished_otherwise(
    browser: Browser, gateway: Gateway
) -> None:
    page = browser.open(gateway)
    stored = "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    page.log_in(gateway.token("ana"))
    page.wait_live()
    assert page.driver.execute_script(stored) == '[{},{},""]'
    page.driver.refresh()
    page.wait_login("Log in")
    page.by_id("keep").click()
    page.log_in(gateway.token("ana"))
    page.wait_live()
    page.driver.refresh()
    page.wait_live()
    assert page.by_id("who").text == "ana"
    page.by_id("logout").click()
    assert page.driver.execute_script(stored) == '[{},{},""]'
    assert "ana" not in page.text


def test_another_ones_client_id_is_not_live(browser: Browser, gateway: Gateway) -> None:
    page = browser.open(gateway)
    page.log_in(gateway.token("ana"), "bo")
    page.until(lambda: "you may not watch" in page.connection, lambda: "a refusal")


def test_without_a_signing_key_no_token_is_needed(browser: Browser, keyless: Gateway) -> None:
    page = browser.open(keyless)
    page.log_in("")
    page.wait_live()
    assert page.by_id("who").text == "watching anonymous"
    keyless.ask("Anybody?", "anonymous", as_=None, options=["yes"])
    card = page.card("Anybody?")
    card.choose("Your answer", "yes")
    card.send()
    assert "Answered by anonymous" in page.card("Anybody?", "decided").text


def test_a_link_leads_to_its_question(browser: Browser, gateway: Gateway) -> None:
    ids = [gateway.ask(f"Question {number}")["question_id"] for number in range(12)]
    decided = gateway.ask("Long decided")["question_id"]
    gateway.call("POST", f"questions/{decided}/response", {"response": "yes"})
    page = browser.open(gateway, f"#question={ids[0]}")
    page.log_in(gateway.token("ana"))
    node = page.card("Question 0").node
    page.until(lambda: page.driver.switch_to.active_element == node, lambda: "the focus there")
    top = page.driver.execute_script("return arguments[0].getBoundingClientRect().top", node)
    assert 0 <= top < page.driver.execute_script("return innerHeight")
    page.driver.execute_script("location.hash = arguments[0]", f"#question={decided}")
    assert "Answered by asker" in page.card("Long decided", "decided").text
    page.driver.execute_script("location.hash = '#question=nothing'")
    page.until(lambda: "is not there" in page.by_id("news").text, lambda: "that it is not there")


# Nobody's text becomes anything else


def test_what_an_asker_writes_stays_text(page: Page, gateway: Gateway) -> None:
    evil = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
    schema = {
        "title": f"title {evil}",
        "type": "object",
        "properties": {
            f"name {evil}": {"type": "string", "description": f"described {evil}"},
            "choice": {"enum": [f"red {evil}", "</fieldset><b>green</b>"]},
        },
    }
    gateway.ask(
        f"prompt {evil}",
        schema=schema,
        run_id=f"run {evil}",
        metadata={f"key {evil}": evil, "link": "javascript:alert(1)", "deep": {"a": [evil]}},
        default={"choice": f"red {evil}"},
    )
    card = page.card(f"prompt {evil}")
    for said in ("title", "name", "described", "red", "run", "key"):
        assert f"{said} {evil}" in str(card.node.get_property("textContent")), said
    card.choose("choice", f"red {evil}")
    card.send()
    decided = page.card(f"prompt {evil}", "decided")
    assert "window.hacked" in decided.text
    count = "return document.querySelectorAll('img, b, a, main script, iframe').length"
    assert page.driver.execute_script(count) == 0
    assert page.driver.execute_script("return window.hacked") is None


def test_a_script_that_got_in_would_not_run(page: Page, browser: Browser) -> None:
    page.driver.execute_script("""
        const script = document.createElement("script");
        script.append("window.hacked = 1");
        document.body.append(script);
        document.body.append(document.createElement("style"));
        fetch("http://localhost:9/").catch(() => { window.refused = true; });
    """)
    page.until(lambda: page.driver.execute_script("return window.refused"), lambda: "no request")
    assert page.driver.execute_script("return window.hacked") is None
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        page.driver.execute_script("document.body.innerHTML = '<b>bold</b>'")
    assert len(browser.complaints()) >= 3


# How it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_window(page: Page, gateway: Gateway, scheme: str) -> None:
    gateway.ask("W" * 300, schema=DEPLOY, metadata={"long" * 30: "x" * 300}, node_id="n" * 90)
    driver = page.driver
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    size = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.card("W" * 300).node.find_element("css selector", "summary").click()
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    levels = [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(levels) < 64) is (scheme == "dark")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_focus_is_visible(page: Page) -> None:
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.driver.execute_script(outline) == "solid"
