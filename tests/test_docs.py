"""The documents against the tree: file names, settings, dependencies, profiles."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gateway.demo import Demo
from gateway.jobs.input_checks import Registered
from gateway.jobs.inputs import Inputs
from gateway.jobs.types import JOB_TYPES
from gateway.settings import SETTINGS, load
from tests.processes import ROOT

NONE = "\N{EN DASH}"
DOCUMENTS = ("README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))))
MADE_BY_COMMANDS = {"config/keys.toml"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_a_document_exists(document: str) -> None:
    named = re.findall(
        r"`((?:gateway|sse|tests|bench|config|docs|requirements)/[\w./-]*)`", read(document)
    )
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing - MADE_BY_COMMANDS == set()


def test_the_architecture_names_every_file_of_the_gateway() -> None:
    architecture = read("docs/architecture.md")
    files = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "gateway").rglob("*.py")
        if file.name != "__init__.py"
    }
    assert {file for file in files if f"`{file}`" not in architecture} == set()


def test_the_readme_has_the_table_of_settings() -> None:
    rows = [
        f"| `{s.name}`{f', `{s.also}`' if s.also else ''} | {s.default or NONE} | {s.meaning} |"
        for s in SETTINGS
    ]
    assert re.findall(r"^\| `[A-Z_]+`.*\|$", read("README.md"), re.MULTILINE) == rows


def test_the_example_environment_has_every_setting_with_its_default() -> None:
    written = dict(re.findall(r"^#([A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))
    expected = {s.name: s.default for s in SETTINGS}
    expected |= {s.also: s.default for s in SETTINGS if s.also}
    assert {name: written.get(name) for name in expected} == expected
    assert set(written) - set(expected) == {"GATEWAY_CONFIG", "ORDERS_URL", "SERVICES"}


def test_the_readme_shows_what_the_demo_prints() -> None:
    readme = read("README.md")
    for line in Demo().invitation("http://127.0.0.1:8081").splitlines():
        if line.strip().startswith("curl"):
            assert line in readme


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["test"]
    named = re.findall(
        r"`([\w-]+)`", "".join(re.findall(r"^\| .*", read("docs/dependencies.md"), re.M))
    )
    without_extras = {requirement.partition("[")[0] for requirement in needed}
    assert without_extras <= set(named)


@pytest.mark.parametrize(
    ("profile", "services"),
    [
        ("gateway", {}),
        (
            "orchestration",
            {"orchestrator": 8080, "runner": 8082, "hitl": 8083, "parser": 8084, "fanout": 8085},
        ),
    ],
)
def test_the_profiles_are_what_they_say(profile: str, services: dict[str, int]) -> None:
    settings = load({}, ROOT / "config" / f"{profile}.toml")
    found = {s.name: [str(endpoint) for endpoint in s.endpoints] for s in settings.services}
    assert found == {name: [f"http://127.0.0.1:{port}"] for name, port in services.items()}
    assert settings.rate_limit == load({"GATEWAY_CONFIG": ""}).rate_limit


def test_the_file_in_the_readme_is_read(tmp_path: Path) -> None:
    shown = re.search(r"```toml\n(.*?)```", read("README.md"), re.DOTALL)
    assert shown is not None
    (tmp_path / "gateway.toml").write_text("")
    file = tmp_path / "own.toml"
    file.write_text(shown[1])
    (orders,) = load({}, file).services
    assert (orders.head_timeout, orders.max_connections, len(orders.endpoints)) == (10, 200, 2)


def test_the_inputs_in_the_page_of_jobs_start_jobs() -> None:
    services = ("orders", "stock", "mail", "auth")
    inputs = Inputs(
        lambda: {name: Registered(name, f"/api/v1/{name}") for name in services}, lambda _url: None
    )
    shown = re.findall(
        r"^### (\w+)\n(?:(?!###).)*?```json\n(.*?)```", read("docs/jobs.md"), re.M | re.S
    )
    assert len(shown) == 4
    for kind, given in shown:
        inputs.read(JOB_TYPES[kind], given.encode(), None)
