"""Designs and regimens: who gets what, and when to look."""
