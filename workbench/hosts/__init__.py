"""Hosts: thin shells that show the analyses in notebooks, a dashboard and reports."""

from workbench.hosts.deferred_grammars import defer_grammars

defer_grammars()  # before a host imports a notebook package
