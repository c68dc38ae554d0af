"""A Glance store on a Vitrail site.

`store` is what glance_store loads. It speaks to the site through `site`, reads through `reader` and writes
through `upload`. The project's README says what the store guarantees.
"""
