"""From vectors to codes; one paper a file, all return `Quantized`."""
