"""Under which licences the sources publish their data, as far as they say it."""

from __future__ import annotations

#: Source → one sentence for a page. Each repeats what the source's own README says.
LICENCES = {
    "local": "made with dtbench (MIT licence) from its shipped policies and controllers",
    "d4rl": "CC BY 4.0 unless otherwise noted, as D4RL's README says",
    "minari": "chosen by each dataset's authors; see its page at minari.farama.org",
    "dqn_replay": "none is named by the data's repository (google-research/batch_rl)",
}
