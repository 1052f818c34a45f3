"""Known AI agents are found by their names, and only by those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.agents import AGENTS, ai_agent


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (
            b"Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2;"
            b" +https://openai.com/gptbot)",
            "GPTBot",
        ),
        (b"Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "ClaudeBot"),
        (b"claude-code/1.0.0", "Claude-Code"),
        (b"meta-externalagent/1.1", "Meta-ExternalAgent"),
        (b"CCBOT/2.0", "CCBot"),
        (b"Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0 Safari/537.36", ""),
        (b"xGPTBot/1.0", ""),
        (b"Devine/1.0", ""),
        (b"not-ccbot", ""),
        (b"", ""),
    ],
)
def test_a_name_is_found_as_a_word_of_its_own(user_agent: bytes, name: str) -> None:
    assert ai_agent(user_agent) == name


@pytest.mark.parametrize("name", AGENTS)
def test_every_name_is_found(name: str) -> None:
    assert ai_agent(f"Mozilla/5.0 (compatible; {name}/1.0)".encode()) == name
    assert ai_agent(name.upper().encode()) == name


def test_only_the_beginning_of_a_very_long_one_is_searched() -> None:
    assert ai_agent(b"x" * 300 + b" GPTBot/1.0" + b"x" * 9000) == "GPTBot"
    assert ai_agent(b"x" * 9000 + b" GPTBot/1.0") == ""


@given(user_agent=st.binary())
def test_the_answer_is_one_of_our_names(user_agent: bytes) -> None:
    assert ai_agent(user_agent) in ("", *AGENTS)
