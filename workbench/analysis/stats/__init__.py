"""Statistics that several analyses share. These modules know arrays only, not evidence."""
