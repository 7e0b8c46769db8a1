"""Do changes and logouts survive what one shopper's other requests do at the same time?"""

from __future__ import annotations

from coatcheck.lab.experiments.base import Experiment, Trial


def measure(trial: Trial) -> None:
    """Races in carts, then logouts under way."""
    number = trial.scale.races
    trial.measure("consistency", "", users=number, races=number, logouts=number)


EXPERIMENT = Experiment(
    name="consistency",
    question="Do changes and logouts survive what the same shopper's other requests do at the same time?",
    method=(
        "A shopper sends six requests at once, each of which puts another thing into the cart. When all have been "
        "answered, the cart is looked at, twice for every web server. A change that was acknowledged and is not shown is "
        "lost; each look counts. Then the shopper logs out while a request is under way that changes the session, and "
        "afterwards shows the old ticket: if it opens the session, the logout was in vain."
    ),
    measure=measure,
    shown=("lost_updates", "updates", "revived", "logouts"),
)
