"""Serves a bundle over HTTP.

A request walks: ``middleware`` (request id, keys, body limit) -> ``routes`` (schemas, limits) -> ``engine`` (one thread
that owns the model) -> ``model`` (the loaded bundle). Registered items go through ``live_catalog`` to ``store``.
"""
