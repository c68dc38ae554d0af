"""The store: what glance_store asks of a driver."""

import contextlib
import logging
import uuid

import glance_store.driver
import glance_store.location
from glance_store import capabilities, exceptions

from glance_store_vitrail import options
from glance_store_vitrail.reader import Reader
from glance_store_vitrail.site import Site, Unavailable
from glance_store_vitrail.upload import Upload

LOG = logging.getLogger(__name__)

SCHEME = "vitrail"


class StoreLocation(glance_store.location.StoreLocation):
    """Where an image's data is: ``vitrail://OBJECT``, a UUID in lower case. It names no host and holds no secret."""

    def process_specs(self):
        """Take the object from the store's own specification."""
        self.object_id = self.specs["object_id"]

    def get_uri(self):
        """Return the URI; `parse_uri` is its inverse."""
        return f"{SCHEME}://{self.object_id}"

    def parse_uri(self, uri):
        """Take the object from a URI, which may come from a user.

        :raises: `BadStoreUri`
        """
        self.validate_schemas(uri, valid_schemas=(f"{SCHEME}://",))
        object_id = uri.removeprefix(f"{SCHEME}://")
        try:
            if str(uuid.UUID(object_id)) != object_id:
                raise ValueError
        except ValueError:
            raise exceptions.BadStoreUri(uri=uri) from None
        self.object_id = object_id


class Store(glance_store.driver.Store):
    """Images' data at a Vitrail site. One instance serves all threads of a process; it holds no state of requests."""

    _CAPABILITIES = (
        capabilities.BitMasks.READ_RANDOM | capabilities.BitMasks.RW_ACCESS | capabilities.BitMasks.DRIVER_REUSABLE
    )
    OPTIONS = options.OPTIONS
    # What a broken connection loses of a download: smaller than the default of 4 MiB, so that slow and lossy
    # paths get on.
    READ_CHUNKSIZE = 256 << 10

    def __init__(self, conf, backend=None):
        """Register the options. Nothing is sent before the store is used, so Glance starts without its site."""
        super().__init__(conf, backend)
        self._site = None
        if backend:
            self._url_prefix = f"{SCHEME}://"

    def get_schemes(self):
        """Return the schemes of this store's URIs."""
        return (SCHEME,)

    def configure_add(self):
        """Read the options.

        :raises: `BadStoreConfiguration`
        """
        section = self.conf[self._name]
        self._site = Site(
            options.session(self.conf, self._name),
            options.endpoints(self.conf, self._name),
            section.vitrail_store_timeout,
            section.vitrail_store_retries,
        )

    @property
    def site(self):
        """The site, if the configuration names one."""
        if self._site is None:
            self.configure_add()
        return self._site

    @glance_store.driver.back_compat_add
    @capabilities.check
    def add(self, image_id, image_file, image_size, hashing_algo, context=None, verifier=None):
        """Store an image's data in a new object.

        :param image_size: in bytes, 0 if unknown
        :returns: URI, bytes written, MD5, hash by `hashing_algo`, metadata of the location
        :raises: `Invalid` if other than `image_size` bytes come, `StorageFull`, `StorageWriteDenied`, `Unavailable`,
            and whatever `image_file` raises. In any case no object remains.
        """
        upload = Upload(image_file, image_size, hashing_algo, verifier, self.WRITE_CHUNKSIZE)
        try:
            self._remove_unfinished(image_id)
            object_id = str(uuid.uuid4())
            try:
                self._write(object_id, image_id, upload, image_size)
            except BaseException:
                self._discard(object_id)
                raise
        except exceptions.Forbidden as error:
            # Glance's credentials are refused, not its user's: what Glance answers to this is 503.
            raise exceptions.StorageWriteDenied(error.msg) from error
        location = StoreLocation({"object_id": object_id}, self.conf, backend_group=self.backend_group)
        metadata = {"store": self.backend_group} if self.backend_group else {}
        return location.get_uri(), upload.length, upload.checksum, upload.multihash, metadata

    @capabilities.check
    def get(self, location, offset=0, chunk_size=None, context=None):
        """Return an iterator over `chunk_size` bytes from `offset`, by default all, and how many will come.

        :raises: `NotFound`, `Unavailable`
        """
        reader = Reader(self.site, location.store_location.object_id, offset or 0, chunk_size, self.READ_CHUNKSIZE)
        return reader, reader.length

    def get_size(self, location, context=None):
        """Return the size in bytes.

        :raises: `NotFound`, `Unavailable`
        """
        object_id = location.store_location.object_id
        size = self.site.show(object_id).get("size")
        if size is None:
            raise exceptions.NotFound(image=object_id)
        return size

    @capabilities.check
    def delete(self, location, context=None):
        """Delete the object.

        :raises: `NotFound`, `InUseByStore`, `Forbidden`, `Unavailable`
        """
        self.site.delete(location.store_location.object_id)

    def _write(self, object_id, image_id, upload, image_size):
        """Create the object, send its data, and make sure that the sites have what was read."""
        endpoint = self.site.create(object_id, self._document(image_id))
        lost_answer = None
        try:
            self.site.send(endpoint, object_id, upload, image_size)
        except Exception as error:
            if upload.failure is not None:
                raise upload.failure from None
            if not (upload.complete and isinstance(error, Unavailable)):
                raise
            lost_answer = error
        shown = self.site.show(object_id, endpoint)
        if shown["status"] != "active":
            raise lost_answer or exceptions.BackendException(f"object {object_id} has data and is {shown['status']}")
        stored = {"size": shown["size"], "md5": shown["checksum"], shown["os_hash_algo"]: shown["os_hash_value"]}
        read = {"size": upload.length, "md5": upload.checksum, upload.hashing_algo: upload.multihash}
        if any(stored[key] != read[key] for key in stored.keys() & read.keys()):
            raise exceptions.BackendException(f"object {object_id}: the site stored {stored}, what was sent is {read}")
        section = self.conf[self._name]
        if section.vitrail_store_sites:
            self.site.copy(object_id, section.vitrail_store_sites, section.vitrail_store_copy_timeout)

    def _document(self, image_id):
        """Return the properties of an image's object. The README says why these."""
        return {
            "name": image_id,
            "visibility": "private",
            "os_hidden": True,
            "disk_format": "raw",
            "container_format": "compressed",
            "glance_store": self._name,
        }

    def _remove_unfinished(self, image_id):
        """Delete what earlier uploads of this image could not clean up.

        Objects with data stay: another Glance with the same image may refer to them.
        """
        unfinished = self.site.find(name=image_id, glance_store=self._name, os_hidden="true", status="queued")
        for document in unfinished:
            LOG.info("image %s: removing object %s, left by a broken upload", image_id, document["id"])
            with contextlib.suppress(exceptions.NotFound):
                self.site.delete(document["id"])

    def _discard(self, object_id):
        """Delete the object of a broken upload, if that is possible."""
        try:
            self.site.delete(object_id)
        except exceptions.NotFound:
            pass
        except (exceptions.GlanceStoreException, exceptions.BackendException) as error:
            LOG.warning("object %s of a broken upload remains: %s", object_id, error)

    @property
    def _name(self):
        """Section of the configuration, which also tells stores on one site apart."""
        return self.backend_group or "glance_store"
