"""What users of a node may do, tried with real ones: needs root, and munged for a part of it.

No users are made: those that every system has stand in for people. Not part of the quick suite.
"""
