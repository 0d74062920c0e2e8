"""Reference scores of Atari games: several tables are in use, so a table's name travels with every score."""

from __future__ import annotations

from dtbench.errors import UnknownNameError
from dtbench.suites.scores import ReferenceScores

#: Table → game → returns of random play and of a human tester. `dqn_zoo` (google-deepmind/dqn_zoo, atari_data.py; the
#: same in dopamine): episodes begin with up to 30 no-ops and have at most 108,000 frames. `lamo` is LaMo's get_hns.py.
HUMAN: dict[str, dict[str, tuple[float, float]]] = {
    "dqn_zoo": {
        "assault": (222.4, 742.0),
        "asterix": (210.0, 8503.3),
        "breakout": (1.7, 30.5),
        "frostbite": (65.2, 4334.7),
        "gopher": (257.6, 2412.5),
        "pong": (-20.7, 14.6),
        "qbert": (163.9, 13455.0),
        "seaquest": (68.4, 42054.7),
    },
    "lamo": {
        "breakout": (1.7, 31.8),
        "pong": (-20.7, 9.3),
        "qbert": (163.9, 13455.0),
        "seaquest": (68.4, 20181.8),
    },
}


def human_reference(game: str, table: str = "dqn_zoo") -> ReferenceScores:
    """Return the scale of a game that is called as in ale-py, e.g. `space_invaders`, from one of the tables of `HUMAN`.

    >>> human_reference("breakout").normalize([1.7, 30.5]).tolist()
    [0.0, 1.0]

    Raises:
        UnknownNameError: no such table, or a game that it does not have.
    """
    if table not in HUMAN:
        raise UnknownNameError("table of human scores", table, HUMAN)
    if game not in HUMAN[table]:
        raise UnknownNameError(f"game of the table {table}", game, HUMAN[table])
    random, human = HUMAN[table][game]
    return ReferenceScores(table, random=random, expert=human)
