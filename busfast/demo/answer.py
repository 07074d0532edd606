"""An image's bytes -> the demo's answer as HTML: probabilities, decision, Grad-CAM, warnings."""

import base64
import io
import itertools
import math
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from busfast.data.images import load_pixels
from busfast.demo.uploads import read_upload
from busfast.errors import UserError
from busfast.inference.bundle import Bundle
from busfast.inference.gradcam import Explainer, make_noise_images
from busfast.inference.outlier import QUANTILE
from busfast.inference.predictor import NOT_FINITE, Predictor
from busfast.inference.summary import DIFFER
from busfast.results.explain import color_evidence
from busfast.results.printing import format_interval
from busfast.results.report import format_alarms
from busfast.text import counted

SHOWN_SIZE = 512  # side of the shown pictures, pixels
SCORES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}
CHANCE = "The model is not shown to be better than chance: the interval of its macro AUC reaches 0.5."
TEMPLATES = Environment(loader=PackageLoader("busfast.demo"), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)


class Answerer:
    """Answers images with HTML, in which text from a file, its name or the bundle is escaped.
    `most`: largest size of an image, bytes."""

    def __init__(self, bundle: Bundle, predictor: Predictor, most: int):
        self.bundle, self.predictor, self.most = bundle, predictor, most
        self.turns = itertools.count()  # so that the page sees a new answer even if its text is the same
        engine, noise = predictor.engine, make_noise_images(predictor.engine.image)
        engine.infer(noise[:1])  # the first inference takes longer
        try:
            self.explainer, self.unexplained = Explainer(engine.model, bundle.facts["architecture"], engine.image,
                                                         engine.device, noise), ""
        except UserError as error:
            self.explainer, self.unexplained = None, str(error)

    def describe(self) -> str:
        """Returns the head of the page: the model and its score on the test part."""
        facts = self.bundle.facts
        run, metrics = (facts[key] if isinstance(facts[key], dict) else {} for key in ("run", "metrics"))
        scored = ""
        if metrics:
            scored = (f"On the test part ({_format_test(metrics)}), its macro AUC was "
                      f"{format_score(metrics.get('scores'), 'macro_auc')}.")
        architecture = facts["architecture"] + (f", the mean of {facts['members']}" if "members" in facts else "")
        return render("head.html.j2", name=run.get("name", ""), architecture=architecture,
                      classes=self.predictor.classes, scored=scored,
                      alarms=[*format_alarms(run), *[CHANCE] * (self.predictor.lowest_auc <= 0.5)])

    def answer(self, name: str, data: bytes) -> str:
        """Returns the answer to an image file. UserError if it is refused, with a message that continues its name."""
        picture = read_upload(data, self.most)
        engine = self.predictor.engine
        pixels = engine.read(picture)
        answer = next(self.predictor.format_outputs(engine.infer([pixels]), 1))
        if answer is None:
            raise UserError(NOT_FINITE)
        predicted, *probabilities, decision, outlier = answer
        probabilities = dict(zip(self.predictor.classes, map(float, probabilities), strict=True))
        height, width = engine.image.sides
        sides = (round(height * SHOWN_SIZE / max(height, width)), round(width * SHOWN_SIZE / max(height, width)))
        shown = load_pixels(picture, sides, *engine.image.fit[1:])
        point, heatmap = self._point(), None
        mapped = point["name"] if point else predicted  # what counted for the class that is decided about
        if self.explainer:
            heatmap = self.explainer.explain([pixels], [self.predictor.classes.index(mapped)])[0]
        return render(
            "answer.html.j2", turn=next(self.turns), name=clean_name(name), predicted=predicted,
            probabilities=probabilities, decision=decision, point=point, mapped=mapped, share=QUANTILE,
            differ=DIFFER, calibrated=self.predictor.temperature is not None,
            outlier=float(outlier) if outlier else None, picture=as_uri(shown),
            overlay=None if heatmap is None else as_uri(overlay_heatmap(shown, heatmap)), unexplained=self.unexplained,
            blank=heatmap is not None and not heatmap.any(), size=f"{height} x {width}",
            ratio=self._ratio(*picture.size))

    def refuse(self, name: str, reason: str) -> str:
        """Returns the message about a refused image."""
        return render("refusal.html.j2", turn=next(self.turns), name=clean_name(name), reason=reason)

    def _point(self) -> dict[str, Any] | None:
        """The operating point and its scores, for the template."""
        if not self.predictor.operating_points:
            return None
        point = self.predictor.operating_points[0]
        metrics = self.bundle.facts["metrics"]
        return {"name": point["class"], "target": f"{point['target']:g}", "threshold": point["threshold"],
                "test": _format_test(metrics) if metrics else "",
                "scores": {title: format_score(point["test"], score) for score, title in SCORES.items()}}

    def _ratio(self, width: int, height: int) -> float:
        """The aspect ratio of the shown picture: the image's own if it was squashed."""
        image = self.predictor.engine.image
        return min(max(width / height, 1 / 3), 3) if image.resize == "squash" else image.sides[1] / image.sides[0]


def clean_name(name: str) -> str:
    """Returns a file's name, shortened, without characters that are invisible or reverse the text."""
    name = "".join(character if character.isprintable() else "?" for character in name) or "The image"
    return name if len(name) <= 80 else f"{name[:50]} ... {name[-20:]}"


def format_score(scores: Any, name: str) -> str:
    """Returns "0.912 (0.880 to 0.940)" for a score in bundle.json; "unknown" if it is missing."""
    values = scores.get(name) if isinstance(scores, dict) else None
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float | None)
                                                                   for value in values):
        return "unknown"
    values = (math.nan if value is None else value for value in values)
    return format_interval(dict(zip(("estimate", "low", "high"), values, strict=True)))


def _format_test(metrics: Any) -> str:
    """Returns "451 images of 220 patients or groups of duplicates", from `metrics` of bundle.json."""
    counts = [metrics.get(key) if isinstance(metrics, dict) else None for key in ("images", "groups")]
    if not all(isinstance(count, int) for count in counts):
        return "size unknown"
    return f"{counted(counts[0], 'image')} of {counted(counts[1], 'patient')} or groups of duplicates"


def overlay_heatmap(pixels: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lays a heatmap, (H, W), from 0 to 1, over a picture, uint8 (P, Q, 1 or 3), as explain.png does."""
    heatmap = Image.fromarray(np.asarray(heatmap, np.float32)).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
    colors, cover = np.split(color_evidence(np.clip(np.asarray(heatmap), 0, 1)), [3], axis=2)
    return np.round((1 - cover) * pixels + cover * colors * 255).astype(np.uint8)


def as_uri(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 (P, Q, 1 or 3), as a PNG in a data: URI."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def render(template: str, **values: Any) -> str:
    """Renders a template of the demo; all values are escaped."""
    return TEMPLATES.get_template(template).render(values)
