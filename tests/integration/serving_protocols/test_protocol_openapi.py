"""The document that is made from the signatures, held against the answers of the front that made it."""

import pytest

jsonschema = pytest.importorskip("jsonschema")

ROWS = [{"a": 0.5, "b": -1.0, "c": 2.0, "d": None}, {"a": 1, "b": True, "c": 0, "d": 0.25}]
VISIT = {"id": "7", "at": "2013-03-01T10:00:00Z", "x": 0.5, "city": "Ulm"}


@pytest.fixture(scope="module")
def document(models):
    return models.client.get("/openapi.json").json()


def schema(document, part):
    """Return a part of the document with the document's definitions beside it, so that references hold."""
    found = document
    for name in part:
        found = found[name]
    text = {"$defs": {}, "components": document["components"], **found}
    jsonschema.Draft202012Validator.check_schema(text)
    return jsonschema.Draft202012Validator(text)


def of(document, name):
    post = ("paths", f"/predict/{name}", "post")
    kind = ("content", "application/json", "schema")
    return schema(document, (*post, "requestBody", *kind)), schema(document, (*post, "responses", "200", *kind))


def test_every_endpoint_is_in_it(document):
    assert document["openapi"] == "3.1.0"
    assert list(document["paths"]) == [f"/predict/{name}" for name in ("classes", "mixed", "split", "tree")]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("tree", ROWS), ("classes", ROWS), ("mixed", [VISIT]), ("mixed", [VISIT | {"id": 8, "city": None}])],
)
def test_requests_and_answers_fit_it(models, document, name, rows):
    asked, answered = of(document, name)
    asked.validate({"rows": rows})
    answer = models.client.post(f"/predict/{name}", json={"rows": rows})
    assert answer.status_code == 200
    answered.validate(answer.json())


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("tree", []),
        ("tree", [{"a": 1}]),
        ("tree", [ROWS[0] | {"a": "1"}]),
        ("mixed", [VISIT | {"city": 5}]),
        ("mixed", [{name: value for name, value in VISIT.items() if name != "id"}]),
        ("mixed", [VISIT | {"at": None}]),
    ],
)
def test_what_it_forbids_is_refused_as_it_says(models, document, name, rows):
    asked, _ = of(document, name)
    assert not asked.is_valid({"rows": rows})
    answer = models.client.post(f"/predict/{name}", json={"rows": rows})
    assert str(answer.status_code) in document["paths"][f"/predict/{name}"]["post"]["responses"]
    assert answer.status_code == 422
    schema(document, ("components", "schemas", "Problem")).validate(answer.json())


def test_a_named_version_answers(models):
    rows = [{"id": "v", "at": 0, "x": 1.0}]
    for version in (1, 2, 3):
        found = models.client.post(f"/predict/split/versions/{version}", json={"rows": rows}).json()["predictions"][0]
        assert (found["version"], found["arm"], found["value"]) == (version, "direct", version / 10)
    for version in ("4", "0", "01", "x", "1e3"):
        assert models.client.post(f"/predict/split/versions/{version}", json={"rows": rows}).status_code == 404
