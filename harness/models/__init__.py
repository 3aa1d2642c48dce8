"""Which weights: registry, downloads, checksums, shapes, proxies."""
