"""LDMS metric sets: schemas, and the memory image that peers read."""
