"""Expressions: searched for, refined and rated."""
