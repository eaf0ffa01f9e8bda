"""One file an injector or a few of a kind; each registers itself."""
