"""Registered items: kept in a database, joined to a bundle's catalog, and followed across replicas."""
