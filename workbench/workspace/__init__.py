"""The content of the hosts, independent of any host: views, controls, selections, results."""
