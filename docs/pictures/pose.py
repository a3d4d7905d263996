"""A simulated camera's way over a sea floor from above: the true one, the pipeline's, and that of ORB odometry."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tocsin.models.pose.evaluate import followed
from tocsin.models.pose.model import SHIPPED, load
from tocsin.models.pose.odometry import Followed, orb
from tocsin.models.pose.simulation.film import Film
from tocsin.models.pose.train import course, watched

SEED, SECONDS = 4_001, 8.0


def draw(axes: Axes) -> None:
    film = Film(SEED, seconds=SECONDS)
    seen, model = course(film), load(SHIPPED)
    turns, shifts = (part[1:] for part in film.path.steps())
    lengths = np.linalg.norm(shifts, axis=1, keepdims=True)
    steps = watched(model, seen)
    own = Followed(steps.turn.double().numpy(), steps.direction.double().numpy() * lengths)
    ways = {"true": (Followed(turns, shifts), "black"), "pipeline": (own, "tab:blue")}
    guess = orb(film.greys(), film.lens)
    ways["ORB odometry"] = Followed(guess.turn, guess.shift * lengths), "tab:red"
    for name, (way, color) in ways.items():
        places = followed(way)
        axes.plot(places[:, 0], places[:, 2], color=color, label=name, linewidth=2.5 if name == "true" else 1.5)
    axes.plot(0, 0, "o", color="black")
    axes.set_xlabel("right, m")
    axes.set_ylabel("ahead, m")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="best")
    axes.set_title("A camera's way over a simulated sea floor, from above; each step has its true length")
