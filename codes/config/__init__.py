"""Option files: YAML with line numbers, typed options, registries, plugins."""
