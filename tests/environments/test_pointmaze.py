"""The mazes against gymnasium-robotics' own geometry, and the walkers in its real environment."""

from __future__ import annotations

import importlib.util

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dtbench.data.behaviours.waypoints import Waypoints, walk_from_place_to_place, walk_then_act_randomly
from dtbench.data.sources import local
from dtbench.environments.make import flatten, import_robotics, make_environment
from dtbench.environments.pointmaze import D4RL_MAZES, DTMA_MAZES, MAZES, STITCH_MAZES
from dtbench.errors import ConfigError
from dtbench.resources import resource
from dtbench.suites.suites import load_suite

#: Where gymnasium-robotics says that the goal is reached.
REACHED = 0.45
NAMES = [f"dtbench/PointMaze-{n}{r}-v0" for n in D4RL_MAZES for r in ("", "-dense")]
DTMA_NAMES = [f"dtbench/PointMazeDTMA-{n}-v1" for n in DTMA_MAZES]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", list(MAZES))
def test_cells_are_where_the_environment_has_them(name):
    env = gym.make("dtbench/PointMaze-umaze-v0", maze=name).unwrapped
    maze = MAZES[name]
    for cell in maze.free_cells:
        theirs = env.maze.cell_rowcol_to_xy(np.array(cell))
        assert np.allclose(maze.centre(cell), theirs)
        assert maze.cell(theirs) == tuple(env.maze.cell_xy_to_rowcol(theirs)) == cell
    assert [list(row) for row in env.maze.maze_map] == maze.to_map()


def test_d4rl_mazes_are_gymnasium_robotics_own():
    import_robotics()
    from gymnasium_robotics.envs.maze import maps

    theirs = {"umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}
    for name, (maze, horizon) in D4RL_MAZES.items():
        walls = [[int(cell == 1) for cell in row] for row in maze.to_map()]
        assert walls == [[int(cell == 1) for cell in row] for row in theirs[name]]
        assert gym.spec(f"dtbench/PointMaze-{name}-v0").max_episode_steps == horizon


def test_paths_are_shortest():
    """Against Dijkstra's distances from scipy."""
    from scipy.sparse import lil_matrix
    from scipy.sparse.csgraph import dijkstra

    maze = MAZES["d4rl/large"]
    cells = maze.free_cells
    graph = lil_matrix((len(cells), len(cells)))
    for a, (i, j) in enumerate(cells):
        for b, (k, m) in enumerate(cells):
            if abs(i - k) + abs(j - m) == 1:
                graph[a, b] = 1
    distances = dijkstra(graph.tocsr())
    for a, start in enumerate(cells):
        for b, goal in enumerate(cells):
            way = maze.path(start, goal)
            assert len(way) - 1 == distances[a, b]
            assert (way[0], way[-1]) == (start, goal)


@pytest.mark.parametrize("name", NAMES)
def test_observation_is_state_then_goal_and_episodes_go_on(name):
    env, plain = make_environment(name), gym.make(name)
    (flat, _), (nested, _) = env.reset(seed=3), plain.reset(seed=3)
    assert np.array_equal(flat, np.concatenate((nested["observation"], nested["desired_goal"])))
    assert env.observation_space.contains(flat)
    # At the goal the environment pays, and neither ends nor moves the goal.
    point = env.unwrapped
    point.point_env.set_state(point.goal.copy(), np.zeros(2))
    for _ in range(5):
        seen, reward, terminated, truncated, _ = env.step(np.zeros(2, dtype=np.float32))
        assert not terminated
        assert not truncated
        assert np.array_equal(seen[-2:], flat[-2:])
        assert reward == pytest.approx(1.0, abs=0.05)  # exp(0) where it is dense


@pytest.mark.parametrize("name", DTMA_NAMES)
def test_the_papers_mazes_show_the_state_without_the_goal(name):
    """GPT2-DTMA's agents see position and velocity only (envs/pointmaze/utils/maze_utils.py)."""
    env, plain = make_environment(name), gym.make("dtbench/PointMaze-umaze-dense-v0")
    maze = env.unwrapped
    flat, _ = env.reset(seed=3)
    assert flat.shape == env.observation_space.shape == plain.observation_space["observation"].shape == (4,)
    assert env.observation_space.contains(flat)
    assert np.array_equal(flat, np.concatenate((maze.data.qpos, maze.data.qvel)))
    maze.point_env.set_state(maze.goal.copy(), np.zeros(2))
    for _ in range(5):
        _, reward, terminated, truncated, _ = env.step(np.zeros(2, dtype=np.float32))
        assert reward == pytest.approx(1.0, abs=0.05)
        assert not terminated
        assert not truncated


def test_the_ant_sees_where_it_stands():
    """AntMaze's own observation lacks the position; D4RL's has it in front."""
    env = make_environment("AntMaze_UMaze-v4")
    observation, _ = env.reset(seed=0)
    ant = env.unwrapped
    assert observation.shape == env.observation_space.shape == (31,)
    assert np.array_equal(observation[:15], ant.data.qpos)
    assert np.array_equal(observation[-2:], ant.goal)


def test_environments_follow_gymnasiums_rules():
    check_env(make_environment(NAMES[0]).unwrapped, skip_render_check=True, skip_close_check=True)


@pytest.mark.parametrize("name", ["u", "medium"])
def test_the_walker_arrives(name):
    env = make_environment(f"dtbench/PointMazeDTMA-{name}-v1")
    observation, _ = env.reset(seed=0)
    goal = env.unwrapped.goal
    walker = Waypoints(DTMA_MAZES[name], goal)
    for _ in range(300):
        if walker.has_reached(observation, REACHED):
            break
        observation, *_ = env.step(walker.act(observation).astype(np.float32))
    assert np.linalg.norm(observation[:2] - goal) <= REACHED


def test_local_mazes_have_whole_episodes_and_a_size_of_their_own():
    store = local.build("pointmaze-dtma-u", steps=4_000)
    assert store.episode_lengths.tolist() == [300] * 13
    assert store.observation_dim == 4
    assert local.whole_size("pointmaze-dtma-u", 1_000_000) == 300_000
    assert local.dataset_id("pointmaze-dtma-large", 10**6) == "local/pointmaze-dtma-large-r3-300000-s0"
    assert local.whole_size("pointmaze-large", 1_000_000) == 1_000_000
    assert local.whole_size("hopper-medium", 1_234) == 1_234


@pytest.mark.parametrize("seed", [0, 1])
def test_walkers_of_the_paper_take_other_points_each_time_and_then_act_at_random(seed):
    """The published generator's rule, recovered from the actions: each is a PD step to a permitted point."""
    maze, env = DTMA_MAZES["medium"], make_environment("dtbench/PointMazeDTMA-medium-v1")
    observation, _ = env.reset(seed=seed)
    act = walk_then_act_randomly(maze)(np.random.default_rng(seed))
    place = maze.centre((6, 6)) + np.random.default_rng(seed).uniform(-0.25, 0.25, size=2)
    cells = maze.path((1, 1), (6, 6))
    arrived, targets, random = False, [], []
    for _ in range(300):
        arrived = arrived or bool(np.linalg.norm(observation[:2] - place) <= 0.5)
        action = act(observation)
        point = observation[:2] + (action + observation[2:4]) / 10
        if arrived:
            random.append(action)
        elif (np.abs(action) < 1).all():
            targets.append(point)
        observation, *_ = env.step(action)
    first, between = maze.centre(cells[1]), [maze.centre(cell) for cell in cells[2:-1]]
    for point in targets:
        in_a_box = any((point >= middle - 0.2 - 1e-4).all() and (point <= middle + 1e-4).all() for middle in between)
        assert in_a_box or np.allclose(point, first, atol=1e-4) or np.allclose(point, place, atol=1e-4)
    assert len({tuple(np.round(point, 3)) for point in targets}) >= len(cells) - 3
    assert len(random) > 10
    assert np.abs(np.mean(random, axis=0)).max() < 0.4


def test_walkers_of_d4rl_go_to_the_middle_of_cell_after_cell(monkeypatch):
    monkeypatch.setattr("dtbench.data.behaviours.waypoints._NOISE", 0.0)
    maze, env = D4RL_MAZES["medium"][0], make_environment("dtbench/PointMaze-medium-v0")
    observation, _ = env.reset(seed=0)
    act, middles = (
        walk_from_place_to_place(maze)(np.random.default_rng(0)),
        [maze.centre(cell) for cell in maze.free_cells],
    )
    visited = set()
    for _ in range(600):
        action = act(observation)
        visited.add(maze.cell(observation[:2]))
        if (np.abs(action) < 1).all():
            point = observation[:2] + (action + observation[2:4]) / 10
            assert any((np.abs(point - middle) <= 0.2 + 1e-4).all() for middle in middles)
        observation, *_ = env.step(action)
    assert len(visited) > 8
    assert visited <= set(maze.free_cells)


@pytest.mark.parametrize("name", STITCH_MAZES)
def test_no_walker_goes_from_the_start_to_the_goal(name):
    maze, horizon, middle = STITCH_MAZES[name]
    start = next(cell for cell in maze.free_cells if maze.rows[cell[0]][cell[1]] == "S")
    way = maze.path(start, maze.goal_cell)
    assert middle in way[2:-2]
    store = local.build(f"pointmaze-stitch-{name}", steps=16 * horizon)
    episodes = [store.episode(number) for number in range(store.num_episodes)]
    begun = [maze.cell(episode.observations[0, :2]) for episode in episodes]
    assert set(begun) == {start, middle}
    for cell, episode in zip(begun, episodes, strict=True):
        visited = [maze.cell(position) for position in episode.observations[:, :2]]
        near = np.linalg.norm(episode.observations[1:, :2] - maze.centre(maze.goal_cell), axis=1)
        if cell == start:
            assert visited[-1] == middle
            assert near.min() > 1
            assert episode.rewards.sum() == 0
        else:
            assert visited[-1] == maze.goal_cell
            assert start not in visited
            assert episode.rewards.sum() > 50
    # Of those that began in the middle some are still there when the others arrive: the time tells nothing.
    in_middle = [[maze.cell(position) == middle for position in episode.observations[:, :2]] for episode in episodes]
    arrival = max(cells.index(True) for cell, cells in zip(begun, in_middle, strict=True) if cell == start)
    assert arrival < horizon // 2
    assert any(cells[arrival] for cell, cells in zip(begun, in_middle, strict=True) if cell == middle)


@pytest.mark.parametrize("name", STITCH_MAZES)
def test_stitching_is_evaluated_from_the_start_alone(name):
    maze, horizon, _ = STITCH_MAZES[name]
    task = load_suite("stitching").task(f"pointmaze-stitch-{name}")
    assert (task.max_episode_steps, gym.spec(task.env_id).max_episode_steps) == (horizon, horizon)
    env = make_environment(task.env_id)
    cells = {maze.cell(env.reset(seed=seed)[0][:2]) for seed in range(10)}
    assert [maze.rows[row][column] for row, column in cells] == ["S"]


def test_rewards_are_those_of_the_fixed_goal():
    store = local.build("pointmaze-umaze", steps=3_000)
    episode = store.episode(0)
    distance = np.linalg.norm(episode.observations[1:, :2] - episode.observations[1:, -2:], axis=1)
    clear = np.abs(distance - REACHED) > 1e-4
    assert np.array_equal(episode.rewards[clear] > 0, distance[clear] <= REACHED)
    assert not episode.terminations.any()


def test_reference_scores_are_what_the_script_measures():
    spec = importlib.util.spec_from_file_location("references", resource("benchmarks", "references.py"))
    references = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(references)
    for name in DTMA_MAZES:
        reference = load_suite("d4rl-long").task(f"pointmaze-dtma-{name}").reference
        experts = [references.episode_return(name, seed, True) for seed in range(4)]
        assert np.mean(experts) == pytest.approx(reference.expert, rel=0.2)
        assert references.episode_return(name, 0, False) < 0.5 * reference.expert
        stitched = load_suite("stitching").task(f"pointmaze-stitch-{name}")
        experts = [references.episode_return(name, seed, True, "pointmaze-stitch") for seed in range(4)]
        assert np.mean(experts) == pytest.approx(stitched.reference.expert, rel=0.2)
        assert stitched.score_target == stitched.reference.expert


def test_flatten_lays_out_nested_spaces():
    space = gym.spaces.Dict({"b": gym.spaces.Discrete(3, start=1), "a": gym.spaces.Box(-1, 1, (2,))})
    values = {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([1, 3])}
    assert flatten(space, values).tolist() == [[1, 2, 1, 0, 0], [3, 4, 0, 0, 1]]
    assert np.array_equal(flatten(space, values)[1], gym.spaces.flatten(space, {"a": values["a"][1], "b": 3}))
    with pytest.raises(ConfigError, match="cannot be flattened"):
        flatten(gym.spaces.Text(4), ["a"])
