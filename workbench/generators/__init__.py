"""The models that draw latents: the path they learn, the network, and how it is walked."""
