"""Configuration of a store, in its own section or, for a single store, in ``[glance_store]``."""

from urllib.parse import urlsplit

from glance_store import exceptions
from keystoneauth1 import exceptions as keystone_exceptions
from keystoneauth1 import loading
from oslo_config import cfg

_TLS = ("cafile", "certfile", "keyfile", "insecure")

OPTIONS = [
    cfg.ListOpt(
        "vitrail_store_endpoints",
        default=[],
        sample_default="http://127.0.0.1:9292",
        help="""
URLs of the Image API of the Vitrail site that keeps the data.

The first is the site next to this Glance. The others are tried in turn when it does not answer.

Possible values:
    * A comma-separated list of http or https URLs, with or without ``/v2``

""",
    ),
    cfg.IntOpt(
        "vitrail_store_timeout",
        default=60,
        min=1,
        help="""
Seconds without progress after which a request to the site is given up: until it is connected (at most
10), until the next 4 MiB are sent, until the next byte is received.

Possible values:
    * Any positive integer value

""",
    ),
    cfg.IntOpt(
        "vitrail_store_retries",
        default=3,
        min=0,
        max=100,
        help="""
How often a request to the site that may be repeated is repeated.

Reading, creating an object and deleting one may be repeated; sending its data may not. The pause grows from
0.5 to 8 seconds.

Possible values:
    * An integer between 0 and 100

""",
    ),
    cfg.ListOpt(
        "vitrail_store_sites",
        default=[],
        help="""
Sites of the mesh that have to have an image before it counts as stored.

The data goes to the site of ``vitrail_store_endpoints``, and from there between the sites, where only what is missing
travels. An image that cannot be had at all of them is not stored. Without sites here, others fetch what they lack
when an image is read there.

Possible values:
    * A comma-separated list of names of sites

Related options:
    * vitrail_store_copy_timeout

""",
    ),
    cfg.IntOpt(
        "vitrail_store_copy_timeout",
        default=3600,
        min=1,
        help="""
Seconds within which the sites of ``vitrail_store_sites`` have to have an image.

Possible values:
    * Any positive integer value

Related options:
    * vitrail_store_sites

""",
    ),
    *[option for option in loading.get_session_conf_options() if option.dest in _TLS],
    *loading.get_auth_common_conf_options(),
]


def endpoints(conf, group):
    """Return the sites' URLs without ``/v2`` and the slash at the end.

    :raises: `BadStoreConfiguration`
    """
    urls = []
    for text in conf[group].vitrail_store_endpoints:
        url = text.rstrip("/").removesuffix("/v2")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        except ValueError:
            usable = False
        if not usable or parts.username is not None:
            raise _bad(group, f"vitrail_store_endpoints: {text} is not an http or https URL without credentials")
        urls.append(url)
    if not urls:
        raise _bad(group, "vitrail_store_endpoints is not set")
    return urls


def session(conf, group):
    """Return a keystoneauth session with the section's credentials and certificates. Nothing is sent yet.

    :raises: `BadStoreConfiguration`
    """
    section = conf[group]
    for name in ("cafile", "certfile", "keyfile"):
        path = getattr(section, name)
        try:
            if path:
                with open(path, "rb"):
                    pass
        except OSError as error:
            raise _bad(group, f"{name}: {error}") from error
    try:
        # In the auth_section, if there is one, nobody else does.
        loading.register_auth_conf_options(conf, group)
        auth = loading.load_auth_from_conf_options(conf, group)
    except (keystone_exceptions.ClientException, cfg.Error) as error:
        raise _bad(group, f"credentials: {error}") from error
    return loading.session.Session().load_from_options(
        auth=auth,
        cacert=section.cafile,
        cert=section.certfile,
        key=section.keyfile,
        insecure=section.insecure,
    )


def _bad(group, reason):
    return exceptions.BadStoreConfiguration(store_name=group, reason=reason)
