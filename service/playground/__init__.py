"""The page to try the service in a browser: its files, and the routes that serve them."""
