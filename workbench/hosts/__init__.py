"""Hosts: thin shells that show the analyses in notebooks, a dashboard and reports."""
