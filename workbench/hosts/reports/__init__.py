"""Reports from papermill templates, pages over many of them, and sweeps that make many."""
