"""Serves a bundle over HTTP.

A request walks: ``middleware`` (request id, keys, body limit) -> ``routes`` (schemas, limits) -> ``engine`` (one thread
that owns the model) -> ``model`` (the loaded bundle). Registered items go through ``catalog.live`` to
``catalog.store``. All that belongs to one bundle is one generation (``bundles``), which that of another bundle replaces
while requests are answered.
"""
