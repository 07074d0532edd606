"""The positive class is plain from the names of the classes, or asked for; it is never guessed."""

import pytest

from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.pipelines.positive import plain_positive, require_positive


@pytest.mark.parametrize(("classes", "positive"), [
    (("normal", "benign", "malignant"), "malignant"), (("malignant", "zyste"), "malignant"),
    (("Malignant", "Benign"), "Malignant"), (("covid", "healthy"), "covid"), (("normal", "benign"), "benign"),
    (("No Finding", "pneumonia"), "pneumonia"), (("control", "ms"), "ms"), (("negative", "positive"), "positive"),
])
def test_the_positive_class_is_malignant_or_the_one_beside_a_healthy_class(classes, positive):
    assert plain_positive(classes) == positive == require_positive(Config(classes=classes), "mine")


@pytest.mark.parametrize("classes", [("cat", "dog"), ("0", "1"), ("healthy", "control"), ("benign", "invasive"),
                                     ("healthy", "covid", "viral")])
def test_where_it_is_not_plain_it_is_asked_for_with_the_classes_the_flag_and_the_key(classes):
    with pytest.raises(UserError) as error:
        require_positive(Config(classes=classes), "mine")
    for words in ("mine: which of the classes", ", ".join(classes), "--positive=CLASS", "positive: CLASS"):
        assert words in str(error.value), words
    last = classes[-1]
    assert require_positive(Config(classes=classes, positive=last), "mine") == last
    assert require_positive(Config(classes=classes, positive=last), "mine", classes[0]) == classes[0]


@pytest.mark.parametrize("make", [lambda: Config(classes=("healthy", "covid"), positive="covdi"),
                                  lambda: require_positive(Config(classes=("healthy", "covid")), "mine", "covdi")])
def test_a_positive_class_that_is_none_of_the_classes_is_refused(make):
    with pytest.raises(UserError, match="Did you mean 'covid'. Choose from: healthy, covid"):
        make()


def test_images_of_several_labels_have_no_positive_class():
    with pytest.raises(UserError, match="positive=a is not possible with label_delim=';'"):
        Config(classes=("a", "b"), label_delim=";", positive="a")
