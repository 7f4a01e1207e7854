"""Drawing code that the figures of several analyses share."""
