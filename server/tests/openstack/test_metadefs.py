"""Metadata definitions: the same requests are answered as by Glance, and every site has what one was told."""

import json
import re

from image_api import Cloud
from vitrail_site import wait

ROOT = "/v2/metadefs/namespaces"
PROPERTY = {"name": "port", "title": "Port", "type": "integer", "minimum": 1, "maximum": 65535}
WHOLE = {
    "namespace": "Web",
    "display_name": "Web servers",
    "visibility": "public",
    "protected": False,
    "resource_type_associations": [{"name": "OS::Nova::Server", "prefix": "hw_"}],
    "objects": [
        {"name": "Tuning", "required": ["threads"], "properties": {"threads": {"title": "Threads", "type": "integer"}}}
    ],
    "properties": {"kind": {"title": "Kind", "type": "string", "enum": ["nginx", "apache"]}},
    "tags": [{"name": "web"}],
}
LONG = "x" * 81

# Who asks, what, and with which document.
STEPS = [
    ("member", "POST", "", {"namespace": "Mine"}),
    ("admin", "POST", "", {}),
    ("admin", "POST", "", {"namespace": LONG}),
    ("admin", "POST", "", {"namespace": "Bad", "visibility": "shared"}),
    ("admin", "POST", "", {"namespace": "Bad", "nonesuch": 1}),
    ("admin", "POST", "", {"namespace": "Bad", "created_at": "2026-01-01T00:00:00Z"}),
    ("admin", "POST", "", WHOLE),
    ("admin", "POST", "", WHOLE),
    ("member", "GET", "/Web", None),
    ("member", "GET", "", None),
    ("member", "GET", "?limit=x", None),
    ("member", "GET", "?sort_dir=sideways", None),
    ("member", "GET", "?visibility=private", None),
    ("member", "GET", "?resource_types=OS::Nova::Server", None),
    ("member", "GET", "?marker=nonesuch", None),
    ("member", "GET", "/nonesuch", None),
    ("admin", "POST", "", {"namespace": "Hidden"}),
    ("member", "GET", "/Hidden", None),
    ("admin", "GET", "/Hidden", None),
    ("member", "DELETE", "/Hidden", None),
    ("member", "POST", "/Hidden/objects", {"name": "o"}),
    ("member", "PUT", "/Web", {"namespace": "Web"}),
    ("admin", "PUT", "/Web", {"namespace": "Web", "visibility": "public", "description": "About the web"}),
    ("admin", "PUT", "/Web", {"namespace": "Hidden"}),
    ("admin", "PUT", "/nonesuch", {"namespace": "nonesuch"}),
    ("member", "GET", "/Web/objects", None),
    ("member", "GET", "/Web/objects/Tuning", None),
    ("member", "GET", "/Web/objects/nonesuch", None),
    ("member", "POST", "/Web/objects", {"name": "o"}),
    ("admin", "POST", "/Web/objects", {"name": "o", "description": "An object"}),
    ("admin", "POST", "/Web/objects", {"name": "o"}),
    ("admin", "POST", "/Web/objects", {"name": LONG}),
    ("admin", "POST", "/Web/objects", {"name": "o", "properties": {"p": {"title": "P"}}}),
    ("admin", "PUT", "/Web/objects/o", {"name": "o2", "description": "Another"}),
    ("admin", "GET", "/Web/objects/o", None),
    ("admin", "PUT", "/Web/objects/o2", {"name": "Tuning"}),
    ("admin", "DELETE", "/Web/objects/o2", None),
    ("admin", "DELETE", "/Web/objects/o2", None),
    ("member", "GET", "/Web/properties", None),
    ("member", "GET", "/Web/properties/kind", None),
    ("member", "GET", "/Web/properties/nonesuch", None),
    ("member", "POST", "/Web/properties", PROPERTY),
    ("admin", "POST", "/Web/properties", PROPERTY),
    ("admin", "POST", "/Web/properties", PROPERTY),
    ("admin", "POST", "/Web/properties", {"name": "p", "type": "text", "title": "P"}),
    ("admin", "PUT", "/Web/properties/port", PROPERTY | {"title": "TCP port"}),
    ("admin", "DELETE", "/Web/properties/port", None),
    ("admin", "DELETE", "/Web/properties/port", None),
    # What a property is called where a type of resources has a prefix for it.
    ("member", "GET", "/Web?resource_type=OS::Nova::Server", None),
    ("member", "GET", "/Web?resource_type=nonesuch", None),
    ("member", "GET", "/Web/properties/hw_kind?resource_type=OS::Nova::Server", None),
    ("member", "GET", "/Web/properties/kind?resource_type=OS::Nova::Server", None),
    ("member", "GET", "/Web/properties/hw_nonesuch?resource_type=OS::Nova::Server", None),
    ("member", "GET", "/Web/properties/hw_kind?resource_type=nonesuch", None),
    ("member", "GET", "/Web/tags", None),
    ("member", "GET", "/Web/tags/web", None),
    ("member", "POST", "/Web/tags/blue", None),
    ("admin", "POST", "/Web/tags/blue", None),
    ("admin", "POST", "/Web/tags/blue", None),
    ("admin", "PUT", "/Web/tags/blue", {"name": "green"}),
    ("admin", "DELETE", "/Web/tags/green", None),
    ("admin", "GET", "/Web/tags/green", None),
    ("admin", "POST", "/Web/tags", {"tags": [{"name": "a"}, {"name": "b"}]}),
    ("admin", "POST", "/Web/tags", {"tags": [{"name": "a"}, {"name": "a"}]}),
    ("admin", "GET", "/Web/tags", None),
    ("admin", "DELETE", "/Web/tags", None),
    ("member", "GET", "/Web/resource_types", None),
    ("member", "POST", "/Web/resource_types", {"name": "OS::Glance::Image"}),
    ("admin", "POST", "/Web/resource_types", {"name": "OS::Glance::Image", "prefix": "img_"}),
    ("admin", "POST", "/Web/resource_types", {"name": "OS::Glance::Image"}),
    ("admin", "DELETE", "/Web/resource_types/OS::Glance::Image", None),
    ("admin", "DELETE", "/Web/resource_types/OS::Glance::Image", None),
    ("admin", "PUT", "/Web", {"namespace": "Web", "visibility": "public", "protected": True}),
    ("admin", "DELETE", "/Web", None),
    ("admin", "DELETE", "/Web/objects/Tuning", None),
    ("admin", "DELETE", "/Web/objects", None),
    ("admin", "PUT", "/Web", {"namespace": "Web", "visibility": "public", "protected": False}),
    ("admin", "DELETE", "/Web/objects", None),
    ("admin", "DELETE", "/Web/properties", None),
    ("admin", "GET", "/Web", None),
    ("admin", "DELETE", "/Web", None),
    ("admin", "DELETE", "/Hidden", None),
    ("admin", "GET", "/Web", None),
    ("nobody", "GET", "", None),
]
# Where Glance fails: what it answers, and what we do.
MEANT = {
    ("member", "GET", "?limit=x"): (500, 400),
    ("admin", "PUT", "/Web/objects/o2"): (500, 409),
}


def ask(cloud, who, method, path, document):
    body = {} if document is None else {"json": document}
    answer = cloud.request(None if who == "nobody" else who, method, ROOT + path, **body)
    if answer.status_code >= 300 or not answer.content:
        return answer.status_code, None
    # Times are those of the one and of the other.
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", answer.text)
    return answer.status_code, ordered(json.loads(text))


def ordered(value):
    """A document whose lists do not depend on the order of rows in a database."""
    if isinstance(value, dict):
        return {key: ordered(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted(map(ordered, value), key=str)
    return value


def test_answers_are_those_of_glance(keystone, glance, site):
    theirs, ours = (Cloud(name, url, keystone) for name, url in (("Glance", glance.url), ("Vitrail", site.url)))
    differing = []
    for step in STEPS:
        answers = ask(theirs, *step), ask(ours, *step)
        if answers[0] != answers[1] and MEANT.get(step[:3]) != (answers[0][0], answers[1][0]):
            differing.append(f"{step}:\n  Glance  {answers[0]}\n  Vitrail {answers[1]}")
    assert not differing, "\n".join(differing)


def test_every_site_has_them(keystone, sites):
    _, lyon = sites
    here, there = (Cloud("Vitrail", site.url, keystone) for site in sites)
    status, _ = ask(here, "admin", "POST", "", WHOLE | {"namespace": "Everywhere"})
    assert status == 201
    assert not any(
        image["name"] == "Everywhere" for image in here.request("admin", "GET", "/v2/images").json()["images"]
    )

    def seen(path, expected):
        wait(path, lambda: ask(there, "member", "GET", path, None)[0] == expected)

    seen("/Everywhere", 200)
    assert ask(there, "member", "GET", "/Everywhere", None) == ask(here, "member", "GET", "/Everywhere", None)
    assert ask(there, "admin", "POST", "", WHOLE | {"namespace": "Everywhere"})[0] == 409
    # Changed at the other one, and kept through a restart.
    assert ask(there, "admin", "POST", "/Everywhere/tags/late", None)[0] == 201
    wait("the tag", lambda: ask(here, "member", "GET", "/Everywhere/tags/late", None)[0] == 200)
    lyon.stop()
    lyon.start()
    seen("/Everywhere/tags/late", 200)
    assert ask(here, "admin", "DELETE", "/Everywhere", None)[0] == 204
    seen("/Everywhere", 404)
