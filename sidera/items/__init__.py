"""What a catalog is made of: items and their fields, unique SIDs, live changes, filters, and items' neighbours."""
