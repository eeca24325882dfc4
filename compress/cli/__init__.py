"""One file a command of the command line, imported when it is called."""
