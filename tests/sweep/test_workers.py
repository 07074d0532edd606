from busfast.sweep import workers
from sweep import dying


def test_a_worker_that_is_killed_is_a_failed_trial_and_another_one_takes_its_place(monkeypatch):
    monkeypatch.setattr(workers, "_serve", dying.killed)
    left, heard, ended = [1, 2, 3], [], []

    def begin():
        return (Number(left.pop(0)), None) if left else None

    class Number(int):
        number = property(int)

    workers.run_workers(2, None, None, "macro_auc", begin, lambda *said: heard.append(said),
                        lambda number, outcome: ended.append((number, outcome)))
    assert sorted(heard) == [(1, 1, 0.5), (2, 1, 0.5), (3, 1, 0.5)]
    assert sorted(number for number, _ in ended) == [1, 2, 3]
    for _, outcome in ended:
        assert outcome.state == "failed" and "status -9 (killed by the system: probably out of memory" in outcome.reason
