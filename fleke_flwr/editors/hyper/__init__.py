"""Hyper-networks that turn the tokens of a request into edits: MEND and MALMEN."""
