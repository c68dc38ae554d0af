"""Every operation of the Image API that roles decide about, and what who is answered."""

from image_api import COLUMNS, DATA_TYPE, persona_or_none

# Visibility of an image, and what the other project decided about it if it is shared.
VIEWS = [
    ("private", None),
    ("shared", None),
    ("shared", "pending"),
    ("shared", "accepted"),
    ("shared", "rejected"),
    ("community", None),
    ("public", None),
]


def path(image, rest=""):
    return f"/v2/images/{image}{rest}"


def replace(field, value):
    return {"op": "replace", "path": f"/{field}", "value": value}


# What changes nothing: all personas use one image.


def show(cloud, who, image):
    return cloud.status(who, "GET", path(image))


def listed(query):
    def operation(cloud, who, image):
        # Of the mark only those images that somebody lists are told.
        answer = cloud.request(who, "GET", f"/v2/images?limit=1000{query}")
        if answer.status_code != 200:
            return answer.status_code
        found = any(one["id"] == image for one in answer.json()["images"])
        return "yes" if found else "no"

    return operation


def get(rest, **headers):
    def operation(cloud, who, image):
        return cloud.status(who, "GET", path(image, rest), headers=headers)

    return operation


def member_show(cloud, who, image):
    return cloud.status(who, "GET", path(image, f"/members/{cloud.project('other')}"))


READS = {
    "show": show,
    "in the plain list": listed(""),
    "in the list of its visibility": None,
    "in the list of member_status=all": listed("&member_status=all"),
    "download": get("/file"),
    "download of a range": get("/file", Range="bytes=0-2"),
    "list members": get("/members"),
    "show a member": member_show,
    "tasks": get("/tasks"),
    "locations": get("/locations"),
}

# What changes the image, for whoever may: everybody finds it as it was made.


def patch(*operations):
    def operation(cloud, who, image):
        return cloud.patch(who, image, *operations).status_code

    return operation


def tag(cloud, who, image):
    return cloud.status(who, "PUT", path(image, "/tags/blue"))


def action(name):
    def operation(cloud, who, image):
        return cloud.status(who, "POST", path(image, f"/actions/{name}"))

    return operation


def download_deactivated(cloud, who, image):
    assert action("deactivate")(cloud, "admin", image) == 204
    answer = cloud.status(who, "GET", path(image, "/file"))
    assert action("reactivate")(cloud, "admin", image) == 204
    return answer


def delete(cloud, who, image):
    return cloud.status(who, "DELETE", path(image))


def delete_protected(cloud, who, image):
    assert cloud.patch("admin", image, replace("protected", True)).status_code == 200
    answer = delete(cloud, who, image)
    cloud.patch("admin", image, replace("protected", False))
    return answer


def add_member(cloud, who, image):
    member = {"member": cloud.project("service")}
    return cloud.status(who, "POST", path(image, "/members"), json=member)


def decide(cloud, who, image):
    member = path(image, f"/members/{cloud.project('other')}")
    return cloud.status(who, "PUT", member, json={"status": "accepted"})


def remove_member(cloud, who, image):
    return cloud.status(who, "DELETE", path(image, f"/members/{cloud.project('other')}"))


def upload_again(cloud, who, image):
    return cloud.upload(who, image)


WRITES = {
    "patch": patch({"op": "add", "path": "/note", "value": "x"}),
    "publish": patch(replace("visibility", "public")),
    "offer to the community": patch(replace("visibility", "community")),
    "make private": patch(replace("visibility", "private")),
    "give to another project": patch(replace("owner", "another")),
    "tag": tag,
    "deactivate": action("deactivate"),
    "reactivate": action("reactivate"),
    "download when deactivated": download_deactivated,
    "upload again": upload_again,
    "add a member": add_member,
    "decide as member": decide,
    "remove a member": remove_member,
    "delete when protected": delete_protected,
    "delete": delete,
}

# What is about a new image, or no image.


def create(**fields):
    def operation(cloud, who):
        document = {"disk_format": "raw", "container_format": "bare"} | fields
        answer = cloud.request(who, "POST", "/v2/images", json=document)
        if answer.status_code == 201:
            cloud.delete(answer.json()["id"])
        return answer.status_code

    return operation


def of_queued(operation, **fields):
    """An operation on an image without data of the member's project."""

    def wrapped(cloud, who):
        image = cloud.create(**fields)
        answer = operation(cloud, who, image)
        cloud.delete(image)
        return answer

    return wrapped


def stage(cloud, who, image):
    headers = {"Content-Type": DATA_TYPE}
    return cloud.status(who, "PUT", path(image, "/stage"), data=b"content", headers=headers)


def web_import(cloud, who, image):
    method = {"name": "web-download", "uri": "http://images.invalid/disk.raw"}
    return cloud.status(who, "POST", path(image, "/import"), json={"method": method})


def upload(cloud, who, image):
    return cloud.upload(who, image)


def of_active(operation):
    def wrapped(cloud, who):
        image = cloud.active()
        answer = operation(cloud, who, image)
        cloud.delete(image)
        return answer

    return wrapped


def copy(cloud, who, image):
    stores = {"method": {"name": "copy-image"}, "all_stores": True}
    return cloud.status(who, "POST", path(image, "/import"), json=stores)


def delete_from_only_store(cloud, who, image):
    stores = cloud.request("admin", "GET", path(image)).json().get("stores", "")
    return cloud.status(who, "DELETE", f"/v2/stores/{stores}/{image}")


def queue_in_cache(cloud, who, image):
    return cloud.status(who, "PUT", f"/v2/cache/{image}")


def request(method, where, **more):
    def operation(cloud, who):
        return cloud.status(who, method, where, **more)

    return operation


def create_namespace(cloud, who):
    name = f"roles-{who}"
    body = {"namespace": name}
    answer = cloud.status(who, "POST", "/v2/metadefs/namespaces", json=body)
    if answer == 201:
        cloud.status("admin", "DELETE", f"/v2/metadefs/namespaces/{name}")
    return answer


NOWHERE = "12345678-1234-1234-1234-123456789abc"
OTHERS = {
    "create": create(),
    "create private": create(visibility="private"),
    "create community": create(visibility="community"),
    "create public": create(visibility="public"),
    "create for another project": create(owner="another"),
    "create what is malformed": create(min_ram="x"),
    "list": request("GET", "/v2/images"),
    "list with a bad marker": request("GET", f"/v2/images?marker={NOWHERE}"),
    "show what is not there": request("GET", f"/v2/images/{NOWHERE}"),
    "upload": of_queued(upload),
    "stage": of_queued(stage),
    "import from the web": of_queued(web_import),
    "copy to all stores": of_active(copy),
    "delete from the only store": of_active(delete_from_only_store),
    "queue in the cache": of_active(queue_in_cache),
    "list the cache": request("GET", "/v2/cache"),
    "import methods": request("GET", "/v2/info/import"),
    "stores": request("GET", "/v2/info/stores"),
    "stores in detail": request("GET", "/v2/info/stores/detail"),
    "usage": request("GET", "/v2/info/usage"),
    "schema": request("GET", "/v2/schemas/image"),
    "list all tasks": request("GET", "/v2/tasks"),
    "list namespaces": request("GET", "/v2/metadefs/namespaces"),
    "create a namespace": create_namespace,
    "list resource types": request("GET", "/v2/metadefs/resource_types"),
    "versions": request("GET", "/"),
    "unknown path": request("GET", "/v2/nonesuch"),
}


def title(visibility, decision):
    return visibility if decision is None else f"{visibility}, {decision}"


def measure(cloud):
    """What every persona is answered to every operation: {(section, operation): [answer of each column]}."""
    answers = {}
    for visibility, decision in VIEWS:
        section = title(visibility, decision)

        def image(visibility=visibility, decision=decision):
            made = cloud.active(visibility=visibility)
            if decision is not None:
                cloud.invite(made, "other", decision)
            return made

        shared = image()
        for name, operation in READS.items():
            operation = operation or listed(f"&visibility={visibility}")
            answers[section, name] = [
                operation(cloud, persona_or_none(column), shared) for column in COLUMNS
            ]
        for name, operation in WRITES.items():
            row = answers[section, name] = []
            for column in COLUMNS:
                row.append(operation(cloud, persona_or_none(column), shared))
                if row[-1] < 300:
                    cloud.delete(shared)
                    shared = image()
        cloud.delete(shared)
    for name, operation in OTHERS.items():
        answers["no image", name] = [
            operation(cloud, persona_or_none(column)) for column in COLUMNS
        ]
    return answers
