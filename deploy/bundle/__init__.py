"""The bundle: manifest, files, golden samples, signature, target."""
