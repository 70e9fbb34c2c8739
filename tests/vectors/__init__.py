"""Backup files that earlier releases wrote, and what is in them: read forever."""
