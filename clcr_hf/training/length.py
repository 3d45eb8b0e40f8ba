"""How long a run is and which of its states is kept, where the command line leaves it open."""

import math
from typing import Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

MIN_STEPS = 600
# Of classes the best of twenty measurements on 120 clips of two people was the first, and its state much worse on
# others than the last one's; of scores no such thing was seen (docs/results/utd_mhad.md, stress_sets.md).
SMALL_VALIDATION = {"classes": 500, "scores": 100}
UNSAID = -1
_MEASUREMENTS = 20  # of a run whose passes are too short to measure after each


def fit_length(args: Any, train_rows: int, validation_rows: int, scores: bool = False) -> str:
    """
    Sets passes, measurements and the state that is kept by the number of rows; says what was done, in one line.

    - Fewer than `min_steps` steps: more passes are made. Where it was measured and saved after each pass, that is then
      done 20 times in all.
    - Fewer than `small_validation` rows of validation: the last state is kept. The best of many measurements on so few
      rows is the luckiest.

    Args:
        args: [`RunArguments`], changed in place; other arguments are left as they are.
        scores: whether the labels are scores, and not classes.
    """
    batch = args.per_device_train_batch_size * max(args.world_size, 1) * args.gradient_accumulation_steps
    a_pass = max(math.ceil(train_rows / batch), 1)
    least = getattr(args, "min_steps", None) or 0
    if args.max_steps <= 0 and math.ceil(args.num_train_epochs * a_pass) < least:
        args.num_train_epochs = float(math.ceil(least / a_pass))
        every = math.ceil(args.num_train_epochs * a_pass / _MEASUREMENTS)
        if args.eval_strategy == IntervalStrategy.EPOCH and args.save_strategy == SaveStrategy.EPOCH:
            args.eval_strategy, args.save_strategy = IntervalStrategy.STEPS, SaveStrategy.STEPS
            args.eval_steps = args.save_steps = every
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * a_pass)
    said = f"{steps} steps, {steps / a_pass:.4g} passes"
    if getattr(args, "small_validation", None) == UNSAID:
        args.small_validation = SMALL_VALIDATION["scores" if scores else "classes"]
    if not args.load_best_model_at_end:
        return said
    if validation_rows < (getattr(args, "small_validation", None) or 0):
        args.load_best_model_at_end, args.early_stopping_patience = False, 0
        return f"{said}; the last state is kept, for validation has {validation_rows} rows alone"
    return f"{said}; the state best on validation is kept"


__all__ = ["MIN_STEPS", "SMALL_VALIDATION", "UNSAID", "fit_length"]
