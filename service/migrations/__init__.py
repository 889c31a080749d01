"""Alembic migrations of the database of registered items: every release brings older databases up to its tables."""
