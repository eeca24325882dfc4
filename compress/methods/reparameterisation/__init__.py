"""Branches that are trained side by side and folded into one layer: RepVGG, MobileOne, FastViT and their like."""
