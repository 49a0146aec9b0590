"""The Flower app and the command line."""
