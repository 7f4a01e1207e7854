"""From images to tokens and back; one system a file, each reads like its paper."""
