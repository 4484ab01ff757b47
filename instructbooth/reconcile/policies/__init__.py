"""One policy a file: each a few pure functions, each with a table of its own in tests/unit/reconcile."""
