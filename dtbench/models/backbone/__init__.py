"""How the backbones of dtbench are pretrained: `bundled` on text, `synthetic` on a Markov chain."""
