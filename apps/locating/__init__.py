"""Behind ``fleke trace``: facts to trace, edits by layer, and what is written."""
