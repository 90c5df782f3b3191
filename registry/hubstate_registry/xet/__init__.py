"""Xet: files as terms over chunks that are stored once."""
