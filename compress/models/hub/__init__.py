"""Models and weights by name: of timm, of torchvision, of a hub, or at an address; each pinned by revision and SHA-256."""
