"""What is the same for each of several trainings is printed once."""

from busfast.once import say, saying_once


def test_a_line_is_said_once_for_each_of_several_trainings_and_each_time_elsewhere(capsys):
    with saying_once():
        for line in ("device: cpu", "device: cpu", "model: a", "device: cpu"):
            say(line)
        assert capsys.readouterr().out == "device: cpu\nmodel: a\n"
    with saying_once():
        say("device: cpu")
    say("device: cpu")
    say("device: cpu")
    assert capsys.readouterr().out == 3 * "device: cpu\n"
