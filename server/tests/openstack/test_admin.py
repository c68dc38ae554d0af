"""The admin API is as its OpenAPI document says: asked as that tells, and in every way that it does not."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import requests
from image_api import Cloud

PAGE = Path(__file__).parents[2] / "docs" / "ADMIN.md"
METHODS = {"get", "post", "put", "patch", "delete"}
# What is wrong for every type but its own.
WRONG = [None, True, -1, 2**70, 1.5, "\u0000", "x" * 5_000, [], [[]], {}, {"a": 1}]


@pytest.fixture(scope="module")
def document(site):
    return requests.get(site.admin_url + "/v1/openapi.json", timeout=30).json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def is_valid(document, schema, value):
    components = {"components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema | components)
    return next((f"{e.json_path}: {e.message}"[:500] for e in validator.iter_errors(value)), None) is None


def check(document, operation, answer):
    """An answer is one that its operation has, and is as that says."""
    told = (
        f"{answer.request.method} {answer.url} {answer.request.body!r:.200}: {answer.status_code} {answer.text[:500]}"
    )
    described = operation["responses"].get(str(answer.status_code))
    assert described is not None, told
    ((kind, content),) = described["content"].items()
    assert answer.headers["Content-Type"].partition(";")[0] == kind, told
    if kind == "application/json":
        values = [answer.json()]
    elif kind == "application/x-ndjson":
        values = [json.loads(line) for line in answer.text.splitlines()]
        assert [v for v in values if "progress" not in v] == values[-1:], told
    else:
        values = [answer.text]
    for value in values:
        assert is_valid(document, content["schema"], value), told


def ask(site, method, path, **more):
    return requests.request(method, site.admin_url + path, timeout=120, **more)


def test_every_operation_answers_as_described(document, keystone, sites):
    paris, lyon = sites
    cloud = Cloud("Vitrail", paris.url, keystone)
    image = cloud.active()
    bodies = {
        "/v1/store/gc": {"dry_run": True},
        "/v1/store/scrub": {"rate": 0},
        "/v1/preseed": {"images": [image], "all": True},
        "/v1/limits": {"send": "5Gbit/s", "background": {"receive": None}, "peers": {"lyon": {"send": "1Gbit/s"}}},
    }
    # So that lyon has a receipt.
    assert Cloud("Vitrail", lyon.url, keystone).request("member", "GET", f"/v2/images/{image}/file").ok
    for path, method, operation in operations(document):
        body = bodies[path] if "requestBody" in operation else None
        if body is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert is_valid(document, schema, body)
        for site in sites:
            answer = ask(site, method, path.replace("{name}", "lyon"), json=body)
            assert answer.status_code == 200, (path, answer.text)
            check(document, operation, answer)
    assert ask(lyon, "get", "/v1/receipts").json(), "there was a receipt to look at"
    for site in sites:
        assert ask(site, "put", "/v1/limits", json={}).ok
    cloud.delete(image)


def test_what_is_not_described_is_refused(document, site):
    for path, method, operation in operations(document):
        here = path.replace("{name}", "paris")
        for other in METHODS - document["paths"][path].keys():
            answer = ask(site, other, here)
            assert answer.status_code == 405, (other, path)
            assert is_valid(document, {"$ref": "#/components/schemas/Error"}, answer.json())
        if path != here:
            for name in ("nonesuch", "%ff", "%00", "..%2f", "x" * 5_000):
                answer = ask(site, method, path.replace("{name}", name))
                assert answer.status_code in (400, 404), (path, name)
                check(document, operation, answer)
        for parameter in operation["parameters"]:
            for value in WRONG if parameter["in"] == "query" else []:
                answer = ask(site, method, here, params={parameter["name"]: str(value)})
                assert answer.status_code == 400, (path, parameter, value)
                check(document, operation, answer)
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            for body in wrong_bodies(document, schema):
                answer = ask(site, method, here, data=body)
                assert answer.status_code in (400, 404), (path, body[:200])
                check(document, operation, answer)


def wrong_bodies(document, schema):
    """Bodies that a schema forbids."""
    yield from (b"{", b"\xff", b"[" * 10_000, b'"x"', b"1", b"[]")
    fields = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    for name in fields:
        for value in WRONG:
            if not is_valid(document, schema, {"images": [], name: value}) and not is_valid(
                document, schema, {name: value}
            ):
                yield json.dumps({name: value}).encode()
    yield json.dumps({"nonesuch": 1}).encode()


def test_the_page_has_every_operation(document):
    described = {f"{method.upper()} {path}" for path, method, _ in operations(document)}
    written = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /\S*)`", PAGE.read_text()))
    assert described == written
