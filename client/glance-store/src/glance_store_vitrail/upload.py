"""Data on its way to the site."""

from glance_store import exceptions
from glance_store.common import utils


class Upload:
    """Bytes from Glance, counted and hashed while they are sent.

    An HTTP client sees only an iterable. It may take an error that Glance's data ends with for one of its own
    connection, so `failure` keeps it.
    """

    def __init__(self, image_file, image_size, hashing_algo, verifier, block):
        """Nothing is read yet.

        :param image_file: has ``read(size)``; it is read once, from where it is to its end
        :param image_size: bytes that have to come, 0 if unknown
        :param verifier: has ``update(bytes)`` and gets all of them, or is None
        :param block: bytes to read at once
        """
        self._file = image_file
        self._size = image_size
        self._block = block
        self._checksum = utils.get_hasher("md5", usedforsecurity=False)
        self._multihash = utils.get_hasher(hashing_algo, usedforsecurity=False)
        self._sinks = [self._checksum, self._multihash]
        if verifier is not None:
            self._sinks.append(verifier)
        self.hashing_algo = hashing_algo
        self.length = 0
        self.complete = False
        self.failure = None

    @property
    def checksum(self):
        """MD5 of what was read, in hexadecimal."""
        return self._checksum.hexdigest()

    @property
    def multihash(self):
        """Hash of what was read by `hashing_algo`, in hexadecimal."""
        return self._multihash.hexdigest()

    def __iter__(self):
        """Read the data. This can be done once."""
        try:
            while block := self._file.read(self._block):
                self.length += len(block)
                if self._size and self.length > self._size:
                    raise exceptions.Invalid(f"more than the {self._size} bytes that were announced")
                for sink in self._sinks:
                    sink.update(block)
                yield block
            if self._size and self.length < self._size:
                raise exceptions.Invalid(f"{self.length} bytes of the {self._size} that were announced")
            self.complete = True
        except Exception as error:
            self.failure = error
            raise
