"""Known AI agents are found by their names, and only by those; others are counted as `other`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.agents import OTHER, Agents

AGENTS = Agents.shipped()


@dataclass
class Head:
    """What a head says of its sender."""

    user_agent: bytes = b""
    ai_agent: bytes | None = None


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
        (b"Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0 Safari/537.36", None),
        (b"xGPTBot/1.0", None),
        (b"Devine/1.0", None),
        (b"not-ccbot", None),
        (b"", None),
    ],
)
def test_a_name_is_found_as_a_word_of_its_own(user_agent: bytes, name: str | None) -> None:
    assert AGENTS.agent_of(Head(user_agent)) == name
    assert AGENTS.name_of(Head(user_agent)) == name


@pytest.mark.parametrize("name", AGENTS.names)
def test_every_name_is_found(name: str) -> None:
    for text in (f"Mozilla/5.0 (compatible; {name}/1.0)", name.upper()):
        assert AGENTS.agent_of(Head(text.encode())) == name
        assert AGENTS.agent_of(Head(b"curl/8.1", text.encode())) == name


def test_only_the_beginning_of_a_very_long_one_is_searched() -> None:
    assert AGENTS.agent_of(Head(b"x" * 300 + b" GPTBot/1.0" + b"x" * 9000)) == "GPTBot"
    assert AGENTS.agent_of(Head(b"x" * 9000 + b" GPTBot/1.0")) is None
    assert AGENTS.agent_of(Head(b"", b"x" * 9000 + b" GPTBot/1.0")) == OTHER


@pytest.mark.parametrize(
    ("declared", "user_agent", "label", "name"),
    [
        (b"my-agent/1.0", b"curl/8.1", OTHER, "my-agent/1.0"),
        (b" research bot ", b"", OTHER, "research bot"),
        (b"gptbot", b"curl/8.1", "GPTBot", "GPTBot"),
        (b"my-agent", b"ClaudeBot/1.0", "ClaudeBot", "ClaudeBot"),
        (b"GPTBot", b"ClaudeBot/1.0", "GPTBot", "GPTBot"),
        (b"", b"curl/8.1", None, None),
        (b"  ", b"ClaudeBot/1.0", "ClaudeBot", "ClaudeBot"),
        (b"x" * 64, b"", OTHER, "x" * 64),
        (b"x" * 65, b"", OTHER, OTHER),
        (b'"quoted"', b"", OTHER, OTHER),
        (b"caf\xc3\xa9", b"", OTHER, OTHER),
        (b"other", b"", OTHER, OTHER),
    ],
)
def test_who_declares_itself_an_agent_is_one_whatever_its_name(
    declared: bytes, user_agent: bytes, label: str | None, name: str | None
) -> None:
    head = Head(user_agent, declared)
    assert (AGENTS.agent_of(head), AGENTS.name_of(head)) == (label, name)


@given(user_agent=st.binary(), declared=st.none() | st.binary())
def test_a_label_is_one_of_our_names_whatever_a_client_says(
    user_agent: bytes, declared: bytes | None
) -> None:
    head = Head(user_agent, declared)
    assert AGENTS.agent_of(head) in (None, OTHER, *AGENTS.names)
    name = AGENTS.name_of(head)
    assert name is None or (name.isascii() and name.isprintable() and len(name) <= 64)


def test_the_file_is_the_table(tmp_path: Path) -> None:
    file = tmp_path / "agents.toml"
    file.write_text('agents = ["NewBot"]')
    agents = Agents.shipped(file)
    assert agents.names == ("NewBot",)
    assert agents.agent_of(Head(b"newbot/2")) == "NewBot"
    assert repr(agents) == "<Agents names=1>"


@pytest.mark.parametrize("names", [[], [""], ["a b"], ["GPTBot", "other"], ["x" * 65]])
def test_a_table_that_names_nobody_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="expected names of agents"):
        Agents(names)
