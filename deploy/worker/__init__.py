"""The worker process that runs engines, and its clients."""
