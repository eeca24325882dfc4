"""One run, from recipe to report and bundle. Start with run.py."""
