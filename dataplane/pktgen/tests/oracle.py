"""Answers questions of oracle.rs by the reference library of RFC 9971, MLRsearch of PyPI.

In: one JSON object on standard input. Out: one on standard output. Never: a search of its own making.
"""

import json
import sys

from MLRsearch import AbstractMeasurer, Config, MeasurementResult, MultipleLossRatioSearch, SearchGoal
from MLRsearch.target_spec import TargetSpec
from MLRsearch.target_stat import TargetStat

PACKETS = 1_000_000


def result(duration, load, loss_ratio):
    return MeasurementResult(
        intended_duration=duration,
        intended_load=load,
        offered_count=PACKETS,
        loss_count=round(loss_ratio * PACKETS),
        duration_with_overheads=duration,
    )


def classify(case):
    goal = case["goal"]
    target = TargetSpec(
        loss_ratio=goal["loss_ratio"],
        exceed_ratio=goal["exceed_ratio"],
        discrete_width=None,
        trial_duration=goal["final_trial_s"],
        duration_sum=goal["duration_sum_s"],
        expansion_coefficient=2,
        fail_fast=False,
        preceding=None,
    )
    stat = TargetStat(target)
    for duration, loss_ratio in case["trials"]:
        stat.add(result(duration, 1.0, loss_ratio))
    optimistic, pessimistic = stat.estimates()
    named = {(True, True): "Lower", (False, False): "Upper", (True, False): "Undecided"}
    return {"class": named[optimistic, pessimistic], "loss_ratio": stat.pessimistic_loss_ratio}


class Device(AbstractMeasurer):
    """The device of oracle.rs, number for number."""

    def __init__(self, capacity, noise, seed):
        self.capacity, self.noise, self.random, self.spent = capacity, noise, seed, 0.0

    def draw(self):
        self.random = (self.random * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.random >> 11) / 2**53

    def measure(self, intended_duration, intended_load):
        self.spent += intended_duration
        over = max(0.0, 1.0 - self.capacity / intended_load)
        noise = 0.001 if self.draw() < self.noise else 0.0
        return result(intended_duration, intended_load, min(1.0, over + noise))


def search(case):
    goals = [
        SearchGoal(
            loss_ratio=goal["loss_ratio"],
            exceed_ratio=goal["exceed_ratio"],
            relative_width=goal["relative_width"],
            initial_trial_duration=goal["initial_trial_s"],
            final_trial_duration=goal["final_trial_s"],
            duration_sum=goal["duration_sum_s"],
            preceding_targets=goal["preceding_targets"],
            expansion_coefficient=goal["expansion"],
            fail_fast=False,
        )
        for goal in case["goals"]
    ]
    config = Config(goals=goals, min_load=case["min"], max_load=case["max"], warmup_duration=1.0)
    device = Device(case["capacity"], case["noise"], case["seed"])
    results = MultipleLossRatioSearch(config=config).search(device)
    bound = lambda it: float(it) if it is not None else None
    found = [results[goal] for goal in goals]
    return {
        "spent_s": device.spent,
        "goals": [
            {
                "lower": bound(it.relevant_lower_bound),
                "upper": bound(it.relevant_upper_bound),
                "through": bound(it.conditional_throughput),
            }
            for it in found
        ],
    }


cases = json.load(sys.stdin)
answer = {
    "classified": [classify(case) for case in cases["classify"]],
    "searched": [search(case) for case in cases["search"]],
}
json.dump(answer, sys.stdout)
