"""Ship a bundle to devices, and serve it there."""
