"""An image's bytes -> what the demo's page says of it: probabilities, decision, where the model looked, doubts."""

import base64
import io
import itertools
import math
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from busfast.data.images import load_pixels
from busfast.demo.uploads import read_upload
from busfast.errors import UserError
from busfast.inference.bundle import Bundle
from busfast.inference.gradcam import Explainer, make_noise_images
from busfast.inference.predictor import NOT_FINITE, Predictor
from busfast.results.evaluation import format_interval
from busfast.results.report import format_alarms
from busfast.text import counted

SHOWN = 512  # side of the shown pictures, pixels
OPACITY = 0.45  # of the map on the picture, as in explain.png
SCORES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}
HOUSE = Environment(loader=PackageLoader("busfast.demo"), autoescape=True, undefined=StrictUndefined,
                    trim_blocks=True, lstrip_blocks=True)


class Answerer:
    """Answers images with HTML; whatever comes from a file, its name or the bundle is escaped.

    Args:
        bundle: says what the model is.
        predictor: of this bundle.
        most: bytes that an image may have.
    """

    def __init__(self, bundle: Bundle, predictor: Predictor, most: int):
        self.bundle, self.predictor, self.most = bundle, predictor, most
        self.turns = itertools.count()  # two answers that say the same are two answers to the page, too
        engine, noise = predictor.engine, make_noise_images(predictor.engine.image)
        engine.infer(noise[:1])  # the first time takes longer, and nobody waits yet
        try:
            self.explainer, self.unexplained = Explainer(engine.model, bundle.facts["architecture"], engine.image,
                                                         engine.device, noise), ""
        except UserError as error:
            self.explainer, self.unexplained = None, str(error)

    def describe(self) -> str:
        """Returns the head of the page: what the model is and how good it was."""
        facts = self.bundle.facts
        run, metrics = (facts[key] if isinstance(facts[key], dict) else {} for key in ("run", "metrics"))
        scored = ""
        if metrics:
            scored = (f"On the test part ({_say_test(metrics)}), its macro AUC was "
                      f"{format_score(metrics.get('scores'), 'macro_auc')}.")
        architecture = facts["architecture"] + (f", the mean of {facts['members']}" if "members" in facts else "")
        return render("head.html.j2", name=run.get("name", ""), architecture=architecture,
                       classes=self.predictor.classes, scored=scored, alarms=format_alarms(run))

    def answer(self, name: str, data: bytes) -> str:
        """Returns what is said of an image.

        Args:
            name: of its file, whatever stands in it.
            data: the file.

        Raises:
            UserError: it is refused; the message follows the file's name.
        """
        picture = read_upload(data, self.most)
        engine = self.predictor.engine
        pixels = engine.read(picture)
        answer = next(self.predictor.format_outputs(engine.infer([pixels]), 1))
        if answer is None:
            raise UserError(NOT_FINITE)
        predicted, *shares, decision, apart = answer
        shares = dict(zip(self.predictor.classes, map(float, shares), strict=True))
        shown = load_pixels(picture, SHOWN, *engine.image.fit[1:])
        where = None
        if self.explainer:
            where = self.explainer.explain([pixels], [self.predictor.classes.index(predicted)])[0]
        return render(
            "answer.html.j2", turn=next(self.turns), name=tame(name), predicted=predicted, shares=shares,
            decision=decision, point=self._point(), calibrated=self.predictor.temperature is not None,
            apart=float(apart) if apart else None, picture=as_uri(shown),
            overlay=None if where is None else as_uri(lay_over(shown, where)), unexplained=self.unexplained,
            silent=where is not None and not where.any(), size=engine.image.size, ratio=self._ratio(*picture.size))

    def refuse(self, name: str, reason: str) -> str:
        """Returns what is said of an image that is refused."""
        return render("refusal.html.j2", turn=next(self.turns), name=tame(name), reason=reason)

    def _point(self) -> dict[str, Any] | None:
        """What is said of the operating point."""
        if not self.predictor.operating_points:
            return None
        point = self.predictor.operating_points[0]
        metrics = self.bundle.facts["metrics"]
        of = _say_test(metrics) if metrics else ""
        return {"name": point["class"], "target": f"{point['target']:g}", "threshold": point["threshold"], "of": of,
                "reached": {title: format_score(point["test"], score) for score, title in SCORES.items()}}

    def _ratio(self, width: int, height: int) -> float:
        """Width by height that a picture is shown with: the image's own, where it was stretched to a square."""
        return min(max(width / height, 1 / 3), 3) if self.predictor.engine.image.resize == "squash" else 1.0


def tame(name: str) -> str:
    """Returns a file's name without what cannot be seen (or turns the reading around), and short."""
    name = "".join(one if one.isprintable() else "?" for one in name) or "The image"
    return name if len(name) <= 80 else f"{name[:50]} ... {name[-20:]}"


def format_score(scores: Any, name: str) -> str:
    """Returns "0.912 (0.880 to 0.940)" of a score in bundle.json; "not said" if it is not there."""
    found = scores.get(name) if isinstance(scores, dict) else None
    if not isinstance(found, list) or len(found) != 3 or not all(one is None or isinstance(one, int | float)
                                                                 for one in found):
        return "not said"
    values = (math.nan if one is None else one for one in found)
    return format_interval(dict(zip(("estimate", "low", "high"), values, strict=True)))


def _say_test(metrics: Any) -> str:
    """Returns "451 images of 220 patients or groups of copies", of the part `metrics` of bundle.json."""
    numbers = [metrics.get(key) if isinstance(metrics, dict) else None for key in ("images", "groups")]
    if not all(isinstance(one, int) for one in numbers):
        return "size not said"
    return f"{counted(numbers[0], 'image')} of {counted(numbers[1], 'patient')} or groups of copies"


def lay_over(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Lays a map in violet (least) to yellow (most) over a picture.

    Args:
        pixels: uint8, (P, P, 1 or 3).
        where: from 0 to 1, (S, S).

    Returns:
        uint8, (P, P, 3).
    """
    side = pixels.shape[0]
    where = Image.fromarray(np.asarray(where, np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    colors = matplotlib.colormaps["viridis"](np.clip(np.asarray(where), 0, 1))[..., :3] * 255
    return np.round((1 - OPACITY) * pixels + OPACITY * colors).astype(np.uint8)


def as_uri(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 (P, P, 1 or 3), as a PNG in a data: address."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def render(template: str, **what: Any) -> str:
    """Fills a template of the demo; all that it is filled with is escaped."""
    return HOUSE.get_template(template).render(what)
