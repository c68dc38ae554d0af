"""Are the answers those that were written down of Glance 33? Roles, and what the content of an image is taken for."""

import re
from pathlib import Path

import pytest
from disks import make
from image_api import Cloud, persona_or_none
from roles import (
    OTHERS,
    READS,
    WRITES,
    add_member,
    copy,
    create,
    decide,
    delete,
    delete_from_only_store,
    listed,
    of_active,
    of_queued,
    patch,
    path,
    remove_member,
    replace,
    stage,
    upload,
    web_import,
)

RECORDED = Path(__file__).parent / "recorded"
# What the record calls the personas, in its order of columns.
COLUMNS = {
    "admin": "admin",
    "member": "member",
    "reader": "reader",
    "padmin": "project-admin",
    "alt": "other",
    "altr": "other-reader",
    "svc": "service",
    "anon": "nobody",
}


def both_actions(cloud, who, image):
    for name in ("deactivate", "reactivate"):
        answer = cloud.status(who, "POST", path(image, f"/actions/{name}"))
        if answer != 204:
            return answer
    return answer


# Operations on an image of a view.
OF_IMAGE = {
    "GET image": READS["show"],
    "in plain list": listed(""),
    "download": READS["download"],
    "PATCH": WRITES["patch"],
    "tag PUT": WRITES["tag"],
    "members list": READS["list members"],
    "deactivate+re": both_actions,
    "tasks of image": READS["tasks"],
    "locations GET": READS["locations"],
    "DELETE": delete,
}


def of_shared(operation):
    """An operation on an image that is offered to the other project."""

    def wrapped(cloud, who):
        image = cloud.active(visibility="shared")
        if operation is not add_member:
            cloud.invite(image, "other")
        answer = operation(cloud, who, image)
        cloud.delete(image)
        return answer

    return wrapped


# The record's own names of operations on no image, or on a new one.
OF_NEW = {
    "create": create(),
    "create public": create(visibility="public"),
    "create community": create(visibility="community"),
    "create for other owner": create(owner="another"),
    "upload queued": of_queued(upload),
    "stage": of_queued(stage),
    "import web": of_queued(web_import),
    "set owner": of_queued(lambda cloud, who, image: patch(replace("owner", "another"))(cloud, who, image)),
    "member add": of_shared(add_member),
    "member set status": of_shared(decide),
    "member delete": of_shared(remove_member),
    "info/import": OTHERS["import methods"],
    "info/stores/detail": OTHERS["stores in detail"],
    "info/usage": OTHERS["usage"],
    "schemas/image": OTHERS["schema"],
    "cache list": OTHERS["list the cache"],
    "tasks": OTHERS["list all tasks"],
    "metadefs ns list": OTHERS["list namespaces"],
    "metadefs ns create": OTHERS["create a namespace"],
    "copy-image": of_active(copy),
    "delete from store (only one)": of_active(delete_from_only_store),
}
# (operation, persona): what was recorded, what is answered here, and why. GLANCE_DIFFERENCES.md has them too.
MEANT_ROLES = {}


def recorded_roles():
    """The answers of each column, by operation."""
    head, *rows = (RECORDED / "roles-33.txt").read_text().partition("\n\n")[2].splitlines()
    assert head.split() == list(COLUMNS)
    parsed = {}
    for row in rows:
        name, *answers = re.split(r"\s{2,}", row.strip()) if row.strip() else (None,)
        if name:
            # The longest name leaves one space before the first answer.
            cells = " ".join([name, *answers]).rsplit(maxsplit=len(COLUMNS))
            parsed[cells[0]] = [int(cell) if cell.isdigit() else cell for cell in cells[1:]]
    return parsed


def answers_of(cloud, name):
    """What every persona is answered to a recorded operation."""
    columns = [persona_or_none(column) for column in COLUMNS.values()]
    if name in OF_NEW:
        return [OF_NEW[name](cloud, who) for who in columns]
    view, _, rest = name.partition(" ")
    visibility, _, decision = view.partition("/")

    def image():
        made = cloud.active(visibility=visibility)
        if decision != "-":
            cloud.invite(made, "other", decision)
        return made

    answers, shared = [], image()
    for who in columns:
        answers.append(OF_IMAGE[rest](cloud, who, shared))
        if rest == "DELETE" and answers[-1] == 204:
            shared = image()
    cloud.delete(shared)
    return answers


def test_roles_are_worth_what_was_recorded(keystone, site):
    cloud = Cloud("Vitrail", site.url, keystone)
    recorded = recorded_roles()
    assert len(recorded) == 91
    assert all(len(row) == len(COLUMNS) for row in recorded.values())
    differing = {}
    for name, expected in recorded.items():
        answers = answers_of(cloud, name)
        for column, theirs, ours in zip(COLUMNS, expected, answers, strict=True):
            if theirs != ours:
                differing[name, column] = (theirs, ours)
    assert differing == {key: value[:2] for key, value in MEANT_ROLES.items()}


FORMAT = re.compile(
    r"(?P<file>\S+) +as (?P<declared>\S+) +-> (?P<code>\d+) +(?P<error>.*?)\| "
    r"status (?P<status>\S+) size (?P<size>\S+) virtual (?P<virtual>\S+) \((?P<length>\d+)\)"
)
# (file, declared): what is answered here instead, and why.
MEANT_FORMATS = {}


def recorded_formats():
    lines = (RECORDED / "formats-33.txt").read_text().splitlines()[2:]
    return [FORMAT.fullmatch(line).groupdict() for line in lines if line]


def outcome(code, status, size, virtual, length):
    """What is independent of how long this file happens to be."""

    def relative(value):
        return value if value is None else "all of it" if value == length else value

    return code, status, relative(size), relative(virtual)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make(tmp_path_factory.mktemp("disks"))


def number(text):
    return None if text == "None" else int(text)


@pytest.mark.parametrize("line", recorded_formats(), ids=lambda line: f"{line['file']}-{line['declared']}")
def test_content_is_taken_for_what_was_recorded(line, files, keystone, glance, site):
    data = files[line["file"]].read_bytes()
    length = int(line["length"])
    recorded = outcome(int(line["code"]), line["status"], number(line["size"]), number(line["virtual"]), length)
    ours = taken_for(Cloud("Vitrail", site.url, keystone), line["declared"], data)
    assert ours == MEANT_FORMATS.get((line["file"], line["declared"]), recorded)
    # The files were made anew: are they of the kinds that were recorded?
    assert taken_for(Cloud("Glance", glance.url, keystone), line["declared"], data) == recorded


def taken_for(cloud, declared, data):
    image = cloud.create(disk_format=declared)
    code = cloud.upload("member", image, data)
    document = cloud.request("member", "GET", path(image)).json()
    cloud.delete(image)
    return outcome(code, document["status"], document["size"], document["virtual_size"], len(data))
