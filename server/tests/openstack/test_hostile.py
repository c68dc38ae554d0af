"""Requests that mean harm do none: no error of the server, nothing of other projects, no way inside.

HOSTILE_REQUESTS is how many are made, HOSTILE_SEED which.
"""

import hashlib
import os
import random
import socket
import threading
from urllib.parse import urlsplit

import hostile
import pytest
import requests
from image_api import Cloud
from vitrail_site import Authority, Site, wait

COUNT = int(os.environ.get("HOSTILE_REQUESTS", "1500"))
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
# They may not see the secret: who it belongs to, and who administers, are left out.
STRANGERS = ("other", "other-reader", "validator", "stranger")


class Canary:
    """Somebody inside who must hear of nobody."""

    def __init__(self):
        self.heard = []
        self._socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError:
                return
            self.heard.append(address)
            connection.close()

    def close(self):
        self._socket.close()


@pytest.fixture
def canary():
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture(scope="module")
def guarded(keystone, tmp_path_factory):
    """A site that imports from the public Internet only, whatever the port."""
    directory = tmp_path_factory.mktemp("guarded")
    authority = Authority(directory / "authority")
    with Site(keystone.url, authority, directory / "site", "guarded", imports="allowed_ports = []") as site:
        yield Cloud("Vitrail", site.url, keystone)


def test_generated(keystone, guarded, canary):
    content = os.urandom(1_234_577)
    secret = guarded.active(data=content, name="secret-5f1d", note="secret-note-77c0")
    before = guarded.request("member", "GET", f"/v2/images/{secret}").json()
    leaks = [b"secret-5f1d", b"secret-note-77c0", b"1234577", content[:64], content[-64:]]
    leaks += [hashlib.new(name, content).hexdigest().encode() for name in ("md5", "sha512")]

    shown = str(before).encode() + guarded.request("member", "GET", f"/v2/images/{secret}/file").content
    assert all(leak in shown for leak in leaks), "it is known what would be a leak"

    own = [guarded.create("other", owner=guarded.project("other")) for _ in range(3)]
    own.append(guarded.active("other"))
    images = {who: [secret, *own] for who in STRANGERS} | {"admin": own, "nobody": [secret, *own], "liar": [secret]}
    tokens = {who: guarded.token(who) for who in (*STRANGERS, "admin")} | {"nobody": None, "liar": "gAAAAAB-nonesuch"}
    generator = hostile.Generator(random.Random(SEED), images, tokens, canary.port)

    where = urlsplit(guarded.url)
    address = (where.hostname, where.port)
    seen = {}
    for number in range(COUNT):
        persona, request = generator.request()
        answer = hostile.send(address, request)
        told = f"request {number} of seed {SEED}, {persona}: {request}\n{answer[:500]!r}"
        assert answer.startswith(b"HTTP/1.1 "), told
        status = int(answer[9:12])
        seen[status] = seen.get(status, 0) + 1
        assert status < 500, told
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert b"\r\nx-injected" not in head, told
        if persona != "admin":
            assert not any(leak in answer for leak in leaks), told
        if persona in ("nobody", "liar"):
            assert status not in (201, 202, 204, 206), told
    print(dict(sorted(seen.items())))

    # Nobody changed or removed it, and what they made can be listed.
    assert guarded.request("member", "GET", f"/v2/images/{secret}").json() == before
    assert guarded.request("member", "GET", f"/v2/images/{secret}/file").content == content
    for who in ("other", "admin"):
        assert guarded.request(who, "GET", "/v2/images?limit=1000").json()["images"] is not None
    assert canary.heard == []


def test_no_way_inside(guarded, canary):
    with socket.create_connection(("127.0.0.1", canary.port)):
        pass
    wait("the canary hears", lambda: canary.heard)
    canary.heard.clear()
    for form in hostile.INSIDE:
        url = form.replace("{port}", str(canary.port))
        image = guarded.create()
        method = {"method": {"name": "web-download", "uri": url}}
        answer = guarded.request("member", "POST", f"/v2/images/{image}/import", json=method)
        assert answer.status_code in (202, 400), (url, answer.text)
        # What is refused only when its name is resolved ends as a failed task.
        wait(url, lambda image=image: state(guarded, image) == "queued")
        located = guarded.request("admin", "POST", f"/v2/images/{image}/locations", json={"url": url})
        assert located.status_code < 500, (url, located.text)
        wait(url, lambda image=image: state(guarded, image) == "queued")
        guarded.delete(image)
    assert canary.heard == []


def test_a_revoked_token_is_worth_nothing(keystone, guarded):
    token = keystone.token("member")
    image = guarded.active()

    def status(method, rest=""):
        headers = {"X-Auth-Token": token}
        return requests.request(method, f"{guarded.url}/v2/images{rest}", headers=headers, timeout=30).status_code

    assert status("GET", f"/{image}/file") == 200
    headers = {"X-Auth-Token": keystone.token("admin"), "X-Subject-Token": token}
    revoked = requests.delete(f"{keystone.url}/auth/tokens", headers=headers, timeout=30)
    assert revoked.status_code == 204, revoked.text
    # As long as sites are told to keep what Keystone said of a token.
    wait("the token is refused", lambda: status("GET") == 401)
    for method, rest in (("GET", f"/{image}"), ("GET", f"/{image}/file"), ("DELETE", f"/{image}"), ("POST", "")):
        assert status(method, rest) == 401
    assert guarded.status("admin", "GET", f"/v2/images/{image}") == 200


def state(cloud, image):
    return cloud.request("admin", "GET", f"/v2/images/{image}").json()["status"]
