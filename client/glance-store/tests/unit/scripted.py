"""A site on loopback that does what it is told: the part of the Image API that the driver uses, and faults."""

import hashlib
import json
import re
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

Request = namedtuple("Request", "method path headers certificate")


class Fault:
    """What goes wrong with one request: `method` and the end of its path, after the image's id."""

    def __init__(self, method, end, *, status=None, drop=None, cut_after=None, headers=None, body=b"no", more=b""):
        self.method, self.end = method, end
        self.status, self.body = status, body  # answered instead of doing anything
        self.drop = drop  # "before" or "after" doing it, the connection is closed without an answer
        self.cut_after = cut_after  # bytes of data after which it is closed
        self.more = more  # what comes after the data
        self.headers = headers or {}  # of the answer, other than they would be


class ScriptedSite:
    """Serves until `stop`. `objects` are documents by id, `data` their bytes, `requests` what came."""

    def __init__(self, tls=None):
        self.objects, self.data = {}, {}
        self.requests, self.faults = [], []
        self.size_max = 1 << 40
        self.copying = []  # what documents say after a copy was asked for, one after the other
        self.token = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": self}))
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def fault(self, method, end="", **what):
        """Let the next such request go wrong."""
        self.faults.append(Fault(method, end, **what))

    def asked(self, method):
        """Return the paths of all requests with this method."""
        return [request.path for request in self.requests if request.method == method]

    def add(self, object_id, data, **properties):
        """Put an object there as if it had been uploaded."""
        self.objects[object_id] = {"id": object_id, "status": "queued", "size": None, "checksum": None} | properties
        self.objects[object_id] |= {"os_hash_algo": None, "os_hash_value": None}
        if data is not None:
            self.activate(object_id, data)

    def activate(self, object_id, data):
        self.data[object_id] = data
        self.objects[object_id] |= {
            "status": "active",
            "stores": "here",
            "size": len(data),
            "checksum": hashlib.md5(data).hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
        }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    site = None

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def dispatch(self):
        parts = urlsplit(self.path)
        match = re.fullmatch(r"/v2/images(?:/([^/]+))?(/file|/import)?", parts.path)
        object_id, end = match.group(1), match.group(2) or ""
        certificate = getattr(self.connection, "getpeercert", lambda: None)()
        site = self.site
        site.requests.append(Request(self.command, self.path, dict(self.headers), certificate))
        fault = next((f for f in site.faults if (f.method, f.end) == (self.command, end)), None)
        if fault:
            site.faults.remove(fault)
            if fault.drop == "before":
                self.close_connection = True
                return
            if fault.status and fault.cut_after is None:
                self.body_or_none()
                self.answer(fault.status, fault.body)
                return
        if site.token and self.headers.get("X-Auth-Token") != site.token:
            self.body_or_none()
            self.answer(401, b"who?")
            return
        self.fault = fault
        name = f"{self.command.lower()}{end.replace('/', '_')}" + ("" if object_id else "_all")
        status, document = getattr(self, name)(object_id, dict(parse_qsl(parts.query)))
        if fault and fault.drop == "after":
            self.close_connection = True
        elif status:
            self.answer(status, b"" if document is None else json.dumps(document).encode())

    do_GET = do_PUT = do_POST = do_DELETE = dispatch  # noqa: N815

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def body_or_none(self):
        """Return the request's body, None if it was cut off."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while True:
            line = self.rfile.readline()
            if not line.strip():
                return None
            length = int(line, 16)
            chunk = self.rfile.read(length + 2)[:-2]
            if len(chunk) < length:
                return None
            if not length:
                return body
            body += chunk

    def post_all(self, _, __):
        document = json.loads(self.body_or_none())
        if document["id"] in self.site.objects:
            return 409, {}
        self.site.add(document["id"], None, **document)
        return 201, self.site.objects[document["id"]]

    def get_all(self, _, filters):
        def text(value):
            return str(value).lower() if isinstance(value, bool) else value

        found = [o for o in self.site.objects.values() if all(text(o.get(k)) == v for k, v in filters.items())]
        return 200, {"images": found}

    def get(self, object_id, _):
        document = self.site.objects.get(object_id)
        if document and "os_glance_importing_to_stores" in document:
            document |= self.site.copying.pop(0) if self.site.copying else {}
        return (200, document) if document else (404, None)

    def post_import(self, object_id, _):
        document = self.site.objects[object_id]
        stores = json.loads(self.body_or_none())["stores"]
        if "os_glance_importing_to_stores" in document:
            return 409, None
        document["os_glance_importing_to_stores"] = ",".join(stores)
        return 202, None

    def delete(self, object_id, _):
        if object_id not in self.site.objects:
            return 404, None
        del self.site.objects[object_id]
        self.site.data.pop(object_id, None)
        return 204, None

    def put_file(self, object_id, _):
        data = self.body_or_none()
        if data is None:
            self.close_connection = True
            return None, None
        if len(data) > self.site.size_max:
            return 413, {"message": "too large"}
        if object_id not in self.site.objects:
            return 404, None
        if int(self.headers.get("x-openstack-image-size", len(data))) != len(data):
            return 400, None
        self.site.activate(object_id, data)
        return 204, None

    def get_file(self, object_id, _):
        if object_id not in self.site.objects:
            return 404, None
        data = self.site.data.get(object_id)
        if data is None:
            return 204, None
        status, headers, part = 200, {}, data
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first = int(wanted.group(1))
            end = min(int(wanted.group(2)) + 1 if wanted.group(2) else len(data), len(data))
            if first >= len(data):
                return 416, None
            status, part = 206, data[first:end]
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        headers["Content-Length"] = str(len(part))
        if self.fault:
            headers |= self.fault.headers
            status = self.fault.status or status
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.fault and self.fault.cut_after is not None:
            part = part[: self.fault.cut_after]
            self.close_connection = True
        self.wfile.write(part + (self.fault.more if self.fault else b""))
        return None, None
