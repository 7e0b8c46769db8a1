"""What the lab measures besides the experiment with the carts, one module each: a question, a method, and how it is done.

What is measured goes into a file of samples; `coatcheck.lab.measures` makes the figures; `coatcheck.lab.claims` judges them.
"""

from __future__ import annotations

from coatcheck.lab.experiments import consistency, crowding, failure, growth, layout, load, size, work
from coatcheck.lab.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one
    for one in (
        consistency.EXPERIMENT,
        crowding.EXPERIMENT,
        load.EXPERIMENT,
        work.EXPERIMENT,
        size.EXPERIMENT,
        failure.EXPERIMENT,
        growth.EXPERIMENT,
        layout.EXPERIMENT,
    )
}
"""In the order in which they are run and shown."""
