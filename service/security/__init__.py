"""Who is let in, to what, and how often: keys, scopes, rate limits, and what a service refuses to start with."""
