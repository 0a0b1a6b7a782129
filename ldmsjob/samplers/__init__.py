"""Sampler plugins that ship with ldmsjob."""
