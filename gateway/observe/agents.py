"""The AI agents and crawlers known by name: the list, and how a User-Agent is matched with it.

The names are the product tokens that these programs send, collected by the ai.robots.txt project
and by their makers' own pages. Left out are names that are only ever written in a robots.txt
(Google-Extended) and words that ordinary programs use too (Code, Spider, Operator). A new one is a
line here.
"""

from __future__ import annotations

import re
from functools import lru_cache

AGENTS: tuple[str, ...] = (
    "AI2Bot",
    "Amazonbot",
    "AmazonBuyForMe",
    "Amzn-SearchBot",
    "Amzn-User",
    "Andibot",
    "anthropic-ai",
    "Applebot",
    "AzureAI-SearchBot",
    "bedrockbot",
    "bigsur.ai",
    "Bravebot",
    "Bytespider",
    "CCBot",
    "ChatGLM-Spider",
    "ChatGPT-User",
    "Claude-Code",
    "Claude-SearchBot",
    "Claude-User",
    "Claude-Web",
    "ClaudeBot",
    "Cloudflare-AutoRAG",
    "cohere-ai",
    "cohere-training-data-crawler",
    "Cotoyogi",
    "Crawl4AI",
    "DeepSeekBot",
    "Devin",
    "Diffbot",
    "DuckAssistBot",
    "FacebookBot",
    "FirecrawlAgent",
    "Gemini-Deep-Research",
    "Google-Agent",
    "Google-CloudVertexBot",
    "Google-Gemini-CLI",
    "Google-NotebookLM",
    "GoogleAgent-Mariner",
    "GoogleOther",
    "GPTBot",
    "iaskspider",
    "ICC-Crawler",
    "ImagesiftBot",
    "img2dataset",
    "kagi-fetcher",
    "LAIONDownloader",
    "LinerBot",
    "LinkupBot",
    "Manus-User",
    "Meta-ExternalAgent",
    "Meta-ExternalFetcher",
    "meta-webindexer",
    "MistralAI-User",
    "NovaAct",
    "OAI-SearchBot",
    "omgilibot",
    "PanguBot",
    "Perplexity-User",
    "PerplexityBot",
    "PetalBot",
    "PhindBot",
    "ShapBot",
    "TavilyBot",
    "Timpibot",
    "VelenPublicWebCrawler",
    "Webzio-Extended",
    "YouBot",
)

_NAMES = {name.lower().encode("ascii"): name for name in AGENTS}
# A name counts only as a word of its own: "xGPTBot" and "Devine" are other programs.
_ANY_AGENT = re.compile(
    rb"(?<![a-z0-9-])(?:"
    + b"|".join(re.escape(name) for name in sorted(_NAMES, key=len, reverse=True))
    + rb")(?![a-z0-9])",
    re.IGNORECASE,
)
# Longer ones are searched up to here: real ones are shorter, and the cache must not hold what a
# client sends by the kilobyte.
_LOOKED_AT_BYTES = 512


@lru_cache(maxsize=1024)
def _known(user_agent: bytes) -> str:
    found = _ANY_AGENT.search(user_agent)
    return _NAMES[found[0].lower()] if found else ""


def ai_agent(user_agent: bytes) -> str:
    """The name of the AI agent or crawler that sends this User-Agent, "" when it is none known.

    Answers for the last 1024 different values are kept; the name is ours, never the client's text.
    """
    return _known(user_agent[:_LOOKED_AT_BYTES])
