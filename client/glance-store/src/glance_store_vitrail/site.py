"""The Image API of a site, as far as the store needs it.

Requests that may be repeated are repeated here, at the next endpoint, and what the site answers becomes an
exception that Glance knows. Nothing here knows what Glance is.
"""

import json
import logging
import time

import requests
from glance_store import exceptions
from keystoneauth1 import exceptions as keystone_exceptions

LOG = logging.getLogger(__name__)

# Establishing a connection takes a few round trips, whatever is being asked for.
CONNECT_TIMEOUT_MAX = 10
PAUSE_MIN, PAUSE_MAX = 0.5, 8.0
# Between looks at a copy, which takes seconds to hours.
COPY_PAUSE = 1.0
# A document has at most 128 properties and 128 tags of 255 characters each, and a list a few of them.
DOCUMENT_BYTES_MAX = 4 << 20
REASON_BYTES_MAX = 500

# What a connection that was there, or seemed to be, ends with.
CUT_OFF = (requests.exceptions.RequestException, keystone_exceptions.ConnectionError)


class Unavailable(exceptions.RemoteServiceUnavailable, exceptions.TimeoutError):
    """The site did not answer, or only that it cannot now.

    Glance answers 503 to the first of these while downloading, and to the second while uploading.
    """


class Site:
    """One site, behind one or more endpoints. Threads share it."""

    def __init__(self, session, endpoints, timeout, retries):
        """Nothing is sent yet.

        :param session: keystoneauth session, which adds a token where it has credentials
        :param endpoints: URLs without ``/v2``; the first that answers is used
        :param timeout: seconds without progress after which a request has failed
        :param retries: how often a request that has failed is repeated
        """
        self._session = session
        self._endpoints = endpoints
        self._timeout = timeout
        self._retries = retries

    def attempts(self, first=None):
        """Yield endpoints to try, with a pause before each but the first, until too many were tried."""
        start = self._endpoints.index(first) if first else 0
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(min(PAUSE_MIN * 2 ** (attempt - 1), PAUSE_MAX))
            yield self._endpoints[(start + attempt) % len(self._endpoints)]

    def repeat(self, method, path, first=None, **arguments):
        """Send a request until it is answered; return the endpoint that did, its answer, and after how many failures.

        :param first: the endpoint to try first
        :raises: `Unavailable`
        """
        failure = None
        for failures, endpoint in enumerate(self.attempts(first)):
            try:
                return endpoint, self.once(endpoint, method, path, **arguments), failures
            except Unavailable as error:
                LOG.warning("%s", error)
                failure = error
        raise failure

    def once(self, endpoint, method, path, **arguments):
        """Send one request and return the answer, of which only the headers have been read.

        :raises: `Unavailable`, `exceptions.Forbidden` for credentials that Keystone does not accept
        """
        what = f"{method} {endpoint}{path}"
        arguments.setdefault("timeout", (min(self._timeout, CONNECT_TIMEOUT_MAX), self._timeout))
        try:
            answer = self._session.request(
                endpoint + path,
                method,
                raise_exc=False,
                redirect=False,
                stream=True,
                log=False,
                **arguments,
            )
        except CUT_OFF as error:
            raise Unavailable(f"{what}: {error}") from error
        except keystone_exceptions.ClientException as error:
            raise exceptions.Forbidden(f"{what}: no token: {error}") from error
        LOG.debug("%s: %s %s", what, answer.status_code, answer.headers.get("x-openstack-request-id", ""))
        if answer.status_code >= requests.codes.server_error:
            raise Unavailable(f"{what}: {_reason(answer)}")
        return answer

    def create(self, object_id, document):
        """Create a record and return the endpoint that has it. It is created once, however often it is asked for."""
        body = {"id": object_id, **document}
        endpoint, answer, _ = self.repeat("POST", "/v2/images", json=body)
        # The id is random: whoever has it already is an earlier attempt that was not heard of.
        if answer.status_code not in (requests.codes.created, requests.codes.conflict):
            raise refusal(answer, object_id)
        answer.close()
        return endpoint

    def send(self, endpoint, object_id, blocks, size):
        """Send data, once.

        :param blocks: iterable of bytes
        :param size: number of bytes that will come, 0 if unknown
        """
        headers = {"Content-Type": "application/octet-stream"}
        if size:
            headers["x-openstack-image-size"] = str(size)
        answer = self.once(
            endpoint,
            "PUT",
            f"/v2/images/{object_id}/file",
            data=blocks,
            headers=headers,
            # What has been sent cannot be sent again with another token.
            allow_reauth=False,
            # While it sends, a socket has the time limit of connecting.
            timeout=(self._timeout, self._timeout),
        )
        if answer.status_code != requests.codes.no_content:
            raise refusal(answer, object_id)
        answer.close()

    def show(self, object_id, endpoint=None):
        """Return an object's document, from this endpoint if it answers.

        :raises: `exceptions.NotFound`
        """
        _, answer, _ = self.repeat("GET", f"/v2/images/{object_id}", first=endpoint)
        if answer.status_code != requests.codes.ok:
            raise refusal(answer, object_id)
        return _document(answer)

    def find(self, **filters):
        """Return the documents of the newest objects that have these properties, at most 25."""
        _, answer, _ = self.repeat("GET", "/v2/images", params=filters)
        if answer.status_code != requests.codes.ok:
            raise refusal(answer, None)
        return _document(answer)["images"]

    def open(self, endpoint, object_id, start, end):
        """Ask for data from `start` to before `end`, or to the end of the object. Return the answer, unread.

        :raises: `exceptions.NotFound`
        """
        headers = {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        answer = self.once(endpoint, "GET", f"/v2/images/{object_id}/file", headers=headers)
        expected = requests.codes.partial_content if "Range" in headers else requests.codes.ok
        if answer.status_code == expected:
            return answer
        if answer.status_code == requests.codes.no_content:
            raise exceptions.NotFound(image=object_id)
        raise refusal(answer, object_id)

    def copy(self, object_id, sites, seconds):
        """Have sites of the mesh fetch an object, and wait until it is durable at all of them.

        :param seconds: how long to wait
        :raises: `Unavailable`
        """
        deadline = time.monotonic() + seconds
        asked = False
        while True:
            document = self.show(object_id)
            missing = sorted(set(sites) - set(document.get("stores", "").split(",")))
            if not missing:
                return
            if not asked:
                self._ask_for_copies(object_id, missing)
                asked = True
            elif failed := document.get("os_glance_failed_import"):
                raise Unavailable(f"object {object_id}: no copy at {failed}")
            if time.monotonic() > deadline:
                raise Unavailable(f"object {object_id}: no copy at {', '.join(missing)} after {seconds} seconds")
            time.sleep(COPY_PAUSE)

    def _ask_for_copies(self, object_id, sites):
        body = {"method": {"name": "copy-image"}, "stores": sites}
        _, answer, failures = self.repeat("POST", f"/v2/images/{object_id}/import", json=body)
        # An attempt that failed may have begun it, and what has begun is not begun again.
        begun = failures and answer.status_code in (requests.codes.bad_request, requests.codes.conflict)
        if answer.status_code != requests.codes.accepted and not begun:
            raise refusal(answer, object_id)
        answer.close()

    def delete(self, object_id):
        """Delete an object.

        :raises: `exceptions.NotFound`
        """
        _, answer, failures = self.repeat("DELETE", f"/v2/images/{object_id}")
        # An attempt that failed may have deleted it.
        gone = failures and answer.status_code == requests.codes.not_found
        if answer.status_code == requests.codes.conflict:
            raise exceptions.InUseByStore(_reason(answer))
        if answer.status_code != requests.codes.no_content and not gone:
            raise refusal(answer, object_id)
        answer.close()


def refusal(answer, object_id):
    """Return the exception for an answer that is not what was asked for."""
    status = answer.status_code
    reason = _reason(answer)
    if status == requests.codes.not_found:
        return exceptions.NotFound(image=object_id)
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        return exceptions.Forbidden(reason)
    if status == requests.codes.request_entity_too_large:
        return exceptions.StorageFull(reason)
    return exceptions.BackendException(reason)


def _reason(answer):
    """Return what an answer says for people, and be done with it."""
    try:
        text = _read(answer, REASON_BYTES_MAX).decode(errors="replace")
    except CUT_OFF:
        text = ""  # The status says enough.
    answer.close()
    return f"the site answered {answer.status_code}: {' '.join(text.split())}"


def _document(answer):
    """Return the JSON that an answer holds."""
    try:
        return json.loads(_read(answer, DOCUMENT_BYTES_MAX))
    except (*CUT_OFF, ValueError) as error:
        raise Unavailable(f"{answer.url}: {error}") from error
    finally:
        answer.close()


def _read(answer, length_max):
    """Return the beginning of an answer's body."""
    body = bytearray()
    for piece in answer.iter_content(16 << 10):
        body += piece
        if len(body) >= length_max:
            break
    return bytes(body[:length_max])
