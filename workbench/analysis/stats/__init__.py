"""Statistics that several analyses share. These modules take arrays only, not evidence."""
