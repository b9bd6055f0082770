"""One family of signals a file; each registers itself with `@signal` or `@batch_signal`."""
