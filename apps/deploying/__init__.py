"""Certificates, scripts and runs of a federation."""
