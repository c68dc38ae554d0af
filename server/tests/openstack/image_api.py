"""The Image API as tests use it: a persona's requests, and what they are answered."""

import os

import requests
from personas import PERSONAS

PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
DATA_TYPE = "application/octet-stream"


class Cloud:
    """An image service and the tokens of everybody who uses it."""

    def __init__(self, name, url, keystone):
        self.name = name
        self.url = url
        self.keystone = keystone
        self._tokens = {}
        self._http = requests.Session()

    def token(self, persona):
        if persona not in self._tokens:
            self._tokens[persona] = self.keystone.token(persona)
        return self._tokens[persona]

    def project(self, persona):
        return self.keystone.project_id(persona)

    def request(self, persona, method, path, headers=None, **more):
        """A persona's request; None is somebody without a token."""
        # A server may end a connection on which it refused a body that it had not read.
        headers = {"Connection": "close"} | dict(headers or {})
        if persona is not None:
            headers["X-Auth-Token"] = self.token(persona)
        return self._http.request(method, self.url + path, headers=headers, timeout=120, **more)

    def status(self, persona, method, path, **more):
        return self.request(persona, method, path, **more).status_code

    def create(self, persona="member", **fields):
        """Id of a new image."""
        document = {"name": "roles", "disk_format": "raw", "container_format": "bare"}
        answer = self.request(persona, "POST", "/v2/images", json=document | fields)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def upload(self, persona, image, data=None):
        """Uploads bytes that no other image has, unless they are given."""
        return self.status(
            persona,
            "PUT",
            f"/v2/images/{image}/file",
            data=os.urandom(64) if data is None else data,
            headers={"Content-Type": DATA_TYPE},
        )

    def patch(self, persona, image, *operations):
        return self.request(
            persona,
            "PATCH",
            f"/v2/images/{image}",
            json=list(operations),
            headers={"Content-Type": PATCH_TYPE},
        )

    def active(self, owner="member", data=None, **fields):
        """Id of a new image with data, of a persona's project."""
        maker = "admin" if fields.get("visibility") == "public" else owner
        image = self.create(maker, owner=self.project(owner), **fields)
        assert self.upload(maker, image, data) == 204
        return image

    def invite(self, image, persona, decision=None):
        """Shares an image with a persona's project, which then decides about it."""
        member = self.project(persona)
        path = f"/v2/images/{image}/members"
        assert self.status("member", "POST", path, json={"member": member}) == 200
        if decision not in (None, "pending"):
            answer = self.status(persona, "PUT", f"{path}/{member}", json={"status": decision})
            assert answer == 200

    def delete(self, image):
        self.status("admin", "DELETE", f"/v2/images/{image}")


ANONYMOUS = "nobody"
COLUMNS = [*PERSONAS, ANONYMOUS]


def persona_or_none(column):
    return None if column == ANONYMOUS else column
