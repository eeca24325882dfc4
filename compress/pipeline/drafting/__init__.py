"""First drafts of recipes: what a folder of data and a model are taken to be, and why."""
