"""The benchmark: the engine beside restic and borg on the same tree in the same run. Never a timed test; `make
bench` runs it.
"""
