"""Configurations and locations."""

from glance_store import location


def section(*urls, options=""):
    """Return a configuration with the store `mesh` at these endpoints."""
    return f"""
[DEFAULT]
enabled_backends = mesh:vitrail
[glance_store]
default_backend = mesh
[mesh]
vitrail_store_timeout = 5
vitrail_store_endpoints = {",".join(urls)}
{options}
"""


def at(store, object_id):
    """Return the location of an object."""
    uri = f"vitrail://{object_id}"
    if store.backend_group:
        return location.get_location_from_uri_and_backend(uri, store.backend_group, store.conf)
    return location.get_location_from_uri(uri, store.conf)
