"""What a language model is made of: layers, adapters and experts, keys and values, the router of users."""
