"""What ``fleke check`` looks at."""
