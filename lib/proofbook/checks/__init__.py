"""Is it right? One module per family of checks."""
