"""python -m busfast sweep: many trainings of one split with different values, chosen by the validation part only."""
