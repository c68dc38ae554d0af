"""Downloads that outlive their connection."""

import itertools
import re

import requests

from glance_store_vitrail import site as vitrail_site

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Reader:
    """An iterator over a part of an object's data.

    A connection that breaks is replaced by another that goes on where it ended; that is sound because the data
    of an object never changes. Failures in a row without a byte between them are limited by the site's retries. If they
    are too many, iterating ends with `site.Unavailable`; it never just ends short.
    """

    def __init__(self, site, object_id, offset, length, block):
        """Ask for the data, and wait until it is there.

        :param offset: of the first byte
        :param length: number of bytes, or None for all that follow; both are clipped to the object
        :param block: bytes to yield at once, at most
        :raises: `exceptions.NotFound`, `site.Unavailable`
        """
        self._site = site
        self._object_id = object_id
        self._block = block
        self._position = offset
        self._end = None if length is None else offset + length
        self._answer = None
        self._pieces = iter(())
        if length != 0:
            self._open()
        else:
            self._end = offset
        self.length = self._end - offset

    def __iter__(self):
        """Return this."""
        return self

    def __next__(self):
        """Return the next bytes."""
        while self._position < self._end:
            try:
                piece = next(self._pieces, b"")
            except vitrail_site.CUT_OFF as error:
                vitrail_site.LOG.warning("object %s: cut off at byte %d: %s", self._object_id, self._position, error)
                piece = b""
            piece = piece[: self._end - self._position]
            if piece:
                self._position += len(piece)
                return piece
            self._open()
        self.close()
        raise StopIteration

    def close(self):
        """Give the connection back. Readers that are not read to their end need this."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        self._pieces = iter(())

    def _open(self):
        """Ask for what is still missing."""
        self.close()
        failure = None
        for endpoint in self._site.attempts():
            try:
                self._answer = self._site.open(endpoint, self._object_id, self._position, self._end)
                self._end = self._check_range(self._answer)
                # The first byte is waited for here: an endpoint that answers and sends none has failed.
                pieces = self._answer.iter_content(self._block)
                first = next(pieces, b"")
                if not first and self._position < self._end:
                    raise vitrail_site.Unavailable(f"{self._answer.url}: no data came")
            except (vitrail_site.Unavailable, *vitrail_site.CUT_OFF) as error:
                vitrail_site.LOG.warning("object %s: %s", self._object_id, error)
                failure = error
                self.close()
                continue
            self._pieces = itertools.chain([first], pieces)
            return
        raise vitrail_site.Unavailable(f"object {self._object_id}: {failure}") from failure

    def _check_range(self, answer):
        """Return where the data of this answer ends; it begins where it should."""
        if answer.status_code == requests.codes.ok:
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise vitrail_site.Unavailable(f"{answer.url}: an answer of unknown length")
            return int(length)
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not match:
            raise vitrail_site.Unavailable(f"{answer.url}: no Content-Range")
        first, last, size = map(int, match.groups())
        end = size if self._end is None else min(self._end, size)
        if (first, last + 1) != (self._position, end):
            raise vitrail_site.Unavailable(f"{answer.url}: bytes {first}-{last} were not asked for")
        return end
