"""References into results: what they are, and what they can't be made to do."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.jobs import references
from gateway.jobs.models import ServiceRequest
from gateway.jobs.references import BadTemplateError, NoResultError, Reference

RESULTS: dict[str, Any] = {
    "order": {"id": "4/2", "total": 12.5, "paid": True, "lines": [{"sku": "a b"}], "note": None},
    "~/": {"": 1},
    "$answers": {"order": {"status": 201, "headers": {"location": "/orders/42"}}},
    "$errors": {},
}


def request(path: str = "/", **more: Any) -> ServiceRequest:
    return ServiceRequest("shop", path, **more)


def path(template: str, results: Any = RESULTS) -> str:
    return references.fill_request(request(template), results).path


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RESULTS),
        ("/order/id", "4/2"),
        ("/order/lines/0/sku", "a b"),
        ("/order/note", None),
        ("/~0~1/", 1),
        ("/$answers/order/status", 201),
    ],
)
def test_a_pointer_leads_to_a_value(pointer: str, value: Any) -> None:
    assert references.resolve(RESULTS, pointer) == value
    assert references.found(RESULTS, pointer)


@pytest.mark.parametrize(
    "pointer",
    [
        "/nothing",
        "/order/lines/1",
        "/order/lines/-",
        "/order/lines/00",
        "/order/lines/+0",
        "/order/lines/\u0660",
        "/order/id/0",
        "/order/total/x",
    ],
)
def test_a_pointer_to_nothing_finds_nothing(pointer: str) -> None:
    assert not references.found(RESULTS, pointer)
    with pytest.raises(NoResultError) as error:
        references.resolve(RESULTS, pointer)
    assert error.value.reference == pointer


@pytest.mark.parametrize("pointer", ["order", "/a~", "/a~2", "~"])
def test_what_is_no_pointer_is_refused(pointer: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        references.tokens_of(pointer)
    with pytest.raises(BadTemplateError, match="JSON pointer"):
        references.fill({"$result": pointer}, RESULTS)
    with pytest.raises(BadTemplateError, match="literal"):
        references.fill(f"${{{pointer}}}", RESULTS)


def test_names_become_tokens_and_tokens_names() -> None:
    assert references.tokens_of("/" + references.escaped("a/b~c")) == ["a/b~c"]


def test_a_value_is_put_in_as_it_is_and_a_text_as_text() -> None:
    template = {
        "all": {"$result": "/order/lines"},
        "text": "${/order/id}: ${/order/total}, ${/order/paid}, ${/order/note} ${/order/lines}",
        "list": [{"$result": "/order/total"}, "plain", 7, None],
    }
    assert references.fill(template, RESULTS) == {
        "all": [{"sku": "a b"}],
        "text": '4/2: 12.5, true, null [{"sku":"a b"}]',
        "list": [12.5, "plain", 7, None],
    }


def test_a_literal_begins_with_two_dollars() -> None:
    assert references.fill("$${/order/id} $5 {x} $", RESULTS) == "${/order/id} $5 {x} $"
    assert list(references.references("$${/order/id}")) == []


def test_what_was_put_in_is_not_read_again() -> None:
    results = {"a": "${/secret}", "secret": "s", "b": {"$result": "/secret"}}
    assert references.fill("${/a}", results) == "${/secret}"
    assert references.fill({"$result": "/b"}, results) == {"$result": "/secret"}


def test_a_default_takes_the_place_of_what_is_not_there() -> None:
    template = {"$result": "/nothing/at/all", "$default": ["x"]}
    assert references.fill(template, RESULTS) == ["x"]
    assert references.fill(template | {"$result": "/order/paid"}, RESULTS) is True
    assert list(references.references(template)) == [Reference("/nothing/at/all", "", True)]


def test_what_is_not_there_is_an_error_or_for_an_output_null() -> None:
    template = {"a": {"$result": "/nothing"}, "b": "<${/nothing}>"}
    with pytest.raises(NoResultError, match="/nothing"):
        references.fill(template["a"], RESULTS)
    with pytest.raises(NoResultError, match="/nothing"):
        references.fill(template["b"], RESULTS)
    assert references.fill(template, RESULTS, lenient=True) == {"a": None, "b": "<>"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("${/a", "without its }"),
        ("${HOME}", "literal"),
        ({"$result": 5}, "JSON pointer"),
        ({"$result": "/a", "b": 1}, "only"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: Any, message: str) -> None:
    with pytest.raises(BadTemplateError, match=message):
        list(references.references(template))
    with pytest.raises(BadTemplateError, match=message):
        references.fill(template, RESULTS)
    [(pointer, _)] = references.faults({"x": [template]})
    assert pointer == "/x/0"


def test_a_template_has_a_bounded_depth() -> None:
    deep: Any = "x"
    for _ in range(references.MAX_DEPTH):
        deep = [deep]
    assert references.fill(deep, {}) == deep
    with pytest.raises(BadTemplateError, match="deeper"):
        references.fill([deep], {})
    with pytest.raises(BadTemplateError, match="deeper"):
        list(references.references([deep]))


def test_results_are_not_multiplied_without_end() -> None:
    results = {"a": {"x" * 1000: "y" * 1_000_000, "list": [1] * 10}}
    assert references.fill([{"$result": "/a"}] * 4, results) == [results["a"]] * 4
    with pytest.raises(NoResultError, match="characters"):
        references.fill([{"$result": "/a"}] * 5, results)
    with pytest.raises(NoResultError, match="characters"):
        references.fill(["${/a}"] * 5, results, lenient=True)


def test_all_references_are_found_with_their_places() -> None:
    made = request(
        "/x/${/a/id}",
        query={"q": {"$result": "/b"}},
        headers={"X-A": "${/c}"},
        body={"d/e": ["${/d} ${/e}", {"$result": ""}]},
    )
    assert [(each.root, each.at) for each in references.references_of(made, "/request")] == [
        ("a", "/request/path"),
        ("b", "/request/query/q"),
        ("c", "/request/headers/X-A"),
        ("d", "/request/body/d~1e/0"),
        ("e", "/request/body/d~1e/0"),
        (None, "/request/body/d~1e/1"),
    ]


def test_what_is_beside_the_results_belongs_to_its_step() -> None:
    roots = [each.root for each in references.references("${/$answers/a/status}${/$errors}")]
    assert roots == ["a", None]


def test_unknown_results_are_told() -> None:
    template = {"x": "${/a} ${/b} ${}"}
    assert references.faults(template) == []
    assert references.faults(template, ["a"]) == [("/x", "there is no result b")]


# In a path


def test_in_a_path_a_value_is_one_segment() -> None:
    assert path("/orders/${/order/id}/${/order/total}") == "/orders/4%2F2/12.5"
    assert path("/s/${/order/lines/0/sku}?q=${/order/id}") == "/s/a%20b?q=4%2F2"
    assert path("/ü/${/a}", {"a": "?#&%2e;@:ü\r\n"}) == "/ü/%3F%23%26%252e%3B%40%3A%C3%BC%0D%0A"


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("/users/${/a}/x", ".."),
        ("/users/${/a}", "."),
        ("/users/.${/a}", "."),
        ("/users/%2e${/a}", "."),
        ("/users/${/a}${/a}", "."),
        ("/users/${/a}", "../admin"),
        ("/users/${/a}", "x/../../admin"),
        ("/users/${/a}", "..\\admin"),
        ("/users/${/a};v=1", ".."),
        ("/users/%2E%2e/x${/a}", "a"),
        ("/users/${/a}", ""),
        ("/users/${/a}", None),
        ("/users/${/a}", {}),
        ("/users/${/a}", []),
        ("/users/${/b}", "a"),
    ],
)
def test_a_value_never_leaves_its_place_in_a_path(template: str, value: Any) -> None:
    with pytest.raises(NoResultError):
        path(template, {"a": value})


# In headers and queries


def test_a_header_field_is_filled() -> None:
    made = references.fill_request(
        request(headers={"X-Id": "no ${/order/id}", "X-P": "plain"}), RESULTS
    )
    assert made.headers == {"X-Id": "no 4/2", "X-P": "plain"}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x7f", None, {}, []])
def test_a_header_field_never_becomes_two(value: Any) -> None:
    with pytest.raises(NoResultError):
        references.fill_request(request(headers={"X-A": "${/a}"}), {"a": value})


def test_a_query_keeps_values_and_is_encoded_as_a_whole() -> None:
    made = references.fill_request(
        request(
            query={
                "id": "${/order/id}",
                "total": {"$result": "/order/total"},
                "many": ["a", {"$result": "/order/paid"}],
                "none": {"$result": "/order/note"},
                "a&b": "x=y&z +",
            }
        ),
        RESULTS,
    )
    assert made.query == {
        "id": "4/2",
        "total": 12.5,
        "many": ["a", True],
        "none": None,
        "a&b": "x=y&z +",
    }
    assert (
        references.query_string(made.query)
        == "id=4%2F2&total=12.5&many=a&many=true&a%26b=x%3Dy%26z%20%2B"
    )


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [{}]])
def test_a_query_has_no_objects(value: Any) -> None:
    with pytest.raises(NoResultError, match="query"):
        references.fill_request(request(query={"q": {"$result": "/a"}}), {"a": value})


def test_the_rest_of_a_request_stays_as_it_is() -> None:
    made = request("/x", method="POST", body={"id": {"$result": "/order/id"}}, target="/t?x=${/a}")
    filled = references.fill_request(made, RESULTS)
    assert (filled.service, filled.method, filled.target) == ("shop", "POST", "/t?x=${/a}")
    assert filled.body == {"id": "4/2"}
    assert made.body == {"id": {"$result": "/order/id"}}


def test_a_value_costs_something_also_without_a_text() -> None:
    """A list of empty texts is looked through, and kept, like any other."""
    for value in (
        [""] * 100_000,
        [{}] * 100_000,
        [[[]]] * 60_000,
        {str(n): 0 for n in range(60_000)},
    ):
        assert references.fill({"$result": "/a"}, {"a": value}) is value
        with pytest.raises(NoResultError, match="characters"):
            references.fill([{"$result": "/a"}] * 3, {"a": value})


def test_templates_may_share_what_they_take() -> None:
    budget, results = references.Budget(), {"a": "x" * 1_500_000}
    for _ in range(2):
        references.fill("${/a}", results, budget=budget)
    with pytest.raises(NoResultError, match="characters"):
        references.fill("${/a}", results, budget=budget)
    references.fill("${/a}", results)


def test_what_templates_make_of_templates_gets_no_deeper_than_json_may() -> None:
    template: Any = {"$result": "/a"}
    for _ in range(32):
        template = [template]
    results: dict[str, Any] = {"a": []}
    for _ in range(4):
        results["a"] = references.fill(template, results)
    with pytest.raises(NoResultError, match="deeper"):
        references.fill(template, results)
    orjson.dumps(results)


def test_results_that_hold_themselves_end_somewhere() -> None:
    results: dict[str, Any] = {}
    results["a"] = references.fill({"$result": ""}, results)
    with pytest.raises(NoResultError, match="deeper"):
        references.fill({"$result": "/a"}, results)
