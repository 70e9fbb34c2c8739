"""The backup file: its format, its writer and its reader, without Django, without a database."""
