"""The process that holds engines, and its clients."""
