"""Requests that mean harm: made from the paths and documents of the Image API, by a seeded generator."""

import contextlib
import json
import socket
from dataclasses import dataclass

# What takes the place of an id, a name, a value or a part of a path.
TEXTS = [
    "",
    ".",
    "..",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e",
    "..%252f..%252f",
    "..\\..\\windows",
    "%00",
    "a%00b",
    "%ff%fe%c0%af",
    "%0d%0aX-Injected:%20yes",
    "'; DROP TABLE images; --",
    "' OR '1'='1",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "%s%n%x",
    "null",
    "true",
    "-1",
    "0",
    "18446744073709551616",
    "1e309",
    "NaN",
    "in:",
    'in:a,"b',
    "gt:",
    "lt:9999-99-99T99:99:99Z",
    "x" * 300,
    "x" * 70_000,
    "\u202egnp.exe",
    "\u0000",
    "\ufeff",
    "\U0001f600" * 64,
    "e\u0301" * 130,
    "\uff0e\uff0e\uff0f",
    "\u0130\u0131\u017f\u212a",
    "\ud800",
]
VALUES = [*TEXTS, None, True, -1, 2**63, 2**64, 1.5, 1e308, [], {}, [[]], [None], {"": {}}, [{"a": [1]}] * 50]
FIELDS = [
    *("id", "name", "visibility", "disk_format", "container_format", "min_ram", "min_disk", "protected", "owner"),
    *("tags", "locations", "status", "size", "checksum", "os_hash_value", "os_hidden", "virtual_size", "stores"),
    *("created_at", "self", "schema", "os_glance_import_task", "os_glance_failed_import", "data", "p:x", "\u0000", ""),
]
FILTERS = [
    *("limit", "marker", "sort", "sort_key", "sort_dir", "name", "status", "owner", "visibility", "member_status"),
    *("tag", "size_min", "size_max", "created_at", "updated_at", "id", "os_hidden", "protected", "checksum", "x\u0000"),
]
HEADERS = [
    "Content-Type: application/openstack-images-v2.1-json-patch",
    "Content-Type: application/openstack-images-v2.0-json-patch",
    "Content-Type: application/octet-stream",
    "Content-Type: ;;;",
    "Range: bytes=0-",
    "Range: bytes=-99999999999999999999",
    "Range: bytes=5-2,0-0,1-1",
    "Content-Range: bytes 0-3/*",
    "X-Image-Meta-Store: ../../x",
    "X-Image-Meta-Store: all",
    "X-Roles: admin",
    "X-Project-Id: admin",
    "X-Identity-Status: Confirmed",
    "X-Forwarded-Host: evil.example",
    "X-OpenStack-Request-Id: req-\x0b\x0c",
    "X-Service-Token: nonesuch",
    "X-Openstack-Image-Size: 18446744073709551616",
    "Accept: application/json",
    "Accept: \xff\xfe",
    "Accept-Encoding: gzip;q=0, *;q=x",
    "Host: evil.example\tx",
    "Transfer-Encoding: identity",
    "Expect: 200-maybe",
    "Upgrade: h2c",
    "Name\x01: x",
    " folded: yes",
    "Long: " + "x" * 9_000,
]
PATHS = {
    "/v2/images": ("GET", "POST"),
    "/v2/images/{image}": ("GET", "PATCH", "DELETE"),
    "/v2/images/{image}/file": ("GET", "HEAD", "PUT"),
    "/v2/images/{image}/stage": ("PUT",),
    "/v2/images/{image}/import": ("POST",),
    "/v2/images/{image}/tasks": ("GET",),
    "/v2/images/{image}/locations": ("GET", "POST"),
    "/v2/images/{image}/members": ("GET", "POST"),
    "/v2/images/{image}/members/{text}": ("GET", "PUT", "DELETE"),
    "/v2/images/{image}/tags/{text}": ("PUT", "DELETE"),
    "/v2/images/{image}/actions/deactivate": ("POST",),
    "/v2/images/{image}/actions/reactivate": ("POST",),
    "/v2/images/{image}/{text}": ("GET",),
    "/v2/stores/{text}/{image}": ("DELETE",),
    "/v2/cache": ("GET", "DELETE"),
    "/v2/cache/{image}": ("PUT", "DELETE"),
    "/v2/cache/nodes/{image}": ("GET",),
    "/v2/tasks": ("GET", "POST"),
    "/v2/tasks/{text}": ("GET",),
    "/v2/info/{text}": ("GET",),
    "/v2/info/usage": ("GET",),
    "/v2/schemas/{text}": ("GET",),
    "/v2/schemas/metadefs/{text}": ("GET",),
    "/v2/metadefs/namespaces": ("GET", "POST"),
    "/v2/metadefs/namespaces/{text}": ("GET", "PUT", "DELETE"),
    "/v2/metadefs/namespaces/{text}/objects": ("GET", "POST", "DELETE"),
    "/v2/metadefs/namespaces/{text}/properties/{text}": ("GET", "PUT", "DELETE"),
    "/v2/metadefs/namespaces/{text}/tags": ("GET", "POST", "DELETE"),
    "/v2/metadefs/namespaces/{text}/tags/{text}": ("GET", "POST", "PUT", "DELETE"),
    "/v2/metadefs/namespaces/{text}/resource_types": ("GET", "POST"),
    "/v2/metadefs/resource_types": ("GET",),
    "/{text}": ("GET", "OPTIONS"),
    "//v2//images//{image}": ("GET",),
    "/v2/../v2/images/{image}": ("GET",),
    "/v1/images/{image}": ("GET",),
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "NONESUCH")

# Ways to write this machine, or what is none of a user's business. {port} is where somebody listens.
INSIDE = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://017700000001:{port}/",
    "http://127.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://8.8.8.8@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@8.8.8.8/",
    "http://127.0.0.1:{port}\\@8.8.8.8/",
    "http:\\\\127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    " http://127.0.0.1:{port}/",
    "ht\ttp://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/\r\nX-Injected: yes",
    "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "http://127\u30020\u30020\u30021:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "gopher://127.0.0.1:{port}/_GET",
    "ftp://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/",
    "vitrail://here/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://10.0.0.1/",
    "http://[fe80::1%25lo]:{port}/",
]


@dataclass(frozen=True)
class Request:
    """A request as it goes over the wire."""

    method: str
    path: str
    headers: tuple[str, ...]
    body: bytes

    def __str__(self):
        body = self.body if len(self.body) < 300 else self.body[:300] + b"..."
        return f"{self.method} {self.path[:300]!a} {self.headers!a:.600} {body!r}"


class Generator:
    """Hostile requests, the same for the same random numbers."""

    def __init__(self, random, images, tokens, port):
        self.random = random
        # Ids by who asks: those of others too.
        self.images = images
        self.tokens = tokens
        self.port = port

    def request(self):
        """Who asks, and the request."""
        pick = self.random
        persona = pick.choice(list(self.tokens))
        template = pick.choice(list(PATHS))
        method = pick.choice(PATHS[template]) if pick.random() < 0.9 else pick.choice(METHODS)
        path = template.replace("{image}", self.image(persona)).replace("{text}", self.text(3_000))
        if pick.random() < 0.4:
            pairs = (f"{pick.choice(FILTERS)}={self.text(3_000)}" for _ in range(pick.randint(1, 4)))
            path += "?" + "&".join(pairs)
        headers = [f"X-Auth-Token: {self.tokens[persona]}"] if self.tokens[persona] is not None else []
        headers += pick.sample(HEADERS, pick.choice((0, 0, 1, 1, 2)))
        body = b""
        if method in ("POST", "PUT", "PATCH") or pick.random() < 0.05:
            body = self.body(method, template)
            if method == "PATCH" and pick.random() < 0.9:
                headers = [*(h for h in headers if not h.startswith("Content-Type")), HEADERS[0]]
            elif template.endswith(("/file", "/stage")) and pick.random() < 0.7:
                headers = [*(h for h in headers if not h.startswith("Content-Type")), HEADERS[2]]
        return persona, Request(method, path, tuple(headers), body)

    def image(self, persona):
        pick = self.random
        return pick.choice(self.images[persona]) if pick.random() < 0.8 else self.text(3_000)

    def text(self, longest):
        return self.random.choice(TEXTS)[:longest]

    def value(self):
        return self.random.choice(VALUES)

    def url(self):
        return self.random.choice(INSIDE).replace("{port}", str(self.port))

    def body(self, method, template):
        pick = self.random
        if pick.random() < 0.1:
            return pick.choice(
                (b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b'"\\ud800"', b"\x00" * 40)
            )
        if method == "PATCH":
            document = [self.operation() for _ in range(pick.choice((1, 1, 2, 3, 200)))]
        elif template.endswith("/import"):
            name = pick.choice(("web-download", "glance-direct", "copy-image", "glance-download", self.value()))
            document = {"method": {"name": name, "uri": self.url()}, "stores": self.value()}
            for field in pick.sample(("stores", "method"), pick.choice((0, 1, 1))):
                document.pop(field) if field == "stores" else document["method"].update(uri=self.value())
        elif template.endswith("/locations"):
            document = {"url": pick.choice((self.url(), self.value())), "validation_data": self.value()}
        elif template.endswith(("/file", "/stage")):
            return pick.randbytes(pick.choice((0, 1, 511, 4096)))
        elif "/members" in template:
            document = {"member": self.value(), "status": pick.choice(("accepted", self.value()))}
        elif "/metadefs/" in template:
            definition = {"name": pick.choice(TEXTS), "title": pick.choice(TEXTS), "type": "string"}
            document = pick.choice(({"namespace": pick.choice(TEXTS)}, definition, {"name": self.value()}))
            document |= pick.choice(({}, {"tags": self.value()}, {"properties": self.value(), "objects": self.value()}))
        else:
            document = {"disk_format": "raw", "container_format": "bare"}
            if pick.random() < 0.5:
                # What may well be taken, and is shown from then on.
                document |= {"name": pick.choice(TEXTS), "note": pick.choice(TEXTS), "tags": pick.sample(TEXTS, 2)}
            else:
                document |= {pick.choice(FIELDS): self.value() for _ in range(pick.randint(0, 4))}
        # As ASCII: half of a pair of surrogates has no encoding but an escape.
        return json.dumps(document).encode()

    def operation(self):
        pick = self.random
        path = "/" + pick.choice((pick.choice(FIELDS), self.text(3_000), "tags/-", "locations/0", "~2", "a/b/c"))
        operation = {"op": pick.choice(("add", "replace", "remove", "move", "test", self.value())), "path": path}
        if pick.random() < 0.8:
            operation["value"] = self.value()
        if pick.random() < 0.1:
            operation["path"] = self.value()
        return operation


def send(address, request):
    """The whole answer; every byte of the request goes as it is."""
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        "Host: image",
        "Connection: close",
        f"Content-Length: {len(request.body)}",
        *request.headers,
    ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogatepass")
    with socket.create_connection(address, timeout=60) as connection:
        # If it was refused before its end, the answer is there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head + request.body)
        answer = b""
        try:
            while part := connection.recv(65_536):
                answer += part
        except ConnectionResetError:
            pass
    return answer
