"""Where in the image each cell of a layer's maps lies: computed from strides, padding and weights, else measured."""

from dataclasses import dataclass

import numpy as np
import torch

FADE = 2  # cells
LOST = 3  # cells, at most, to convolutions without padding
TINY = 1e-30
STEPS = 20  # of `measure_places`, at most
PADS = ("ConstantPadNd", "ReflectionPad2D", "ReplicationPad2D")
MIXED = ("Mean", "Sum", "Bmm", "Scaled", "Softmax", "Adaptive", "Upsample", "Roll")  # no longer of one place


@dataclass(frozen=True)
class Places:
    """Along each axis (rows, columns), cell i has its center at pixel `start + i * step`, the first pixel being 0."""

    start: tuple[float, float]
    step: tuple[float, float]
    grid: tuple[int, int]  # how many cells
    measured: bool = False  # not computed

    def spread(self, maps: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
        """Draws maps, (N, h, w), in an image, (N, *sides): linear between the centers of cells. Beyond the outermost
        ones a map fades over `FADE` cells, as repeating them would draw stripes that no cell saw."""
        weights = []
        for side, start, step, cells in zip(sides, self.start, self.step, self.grid, strict=True):
            position = (np.arange(side) - start) / step
            inside = position.clip(0, cells - 1)
            weights.append((1 - abs(inside[:, None] - np.arange(cells))).clip(0)
                           * (1 - abs(position - inside) / FADE).clip(0)[:, None])
        return (weights[0] @ maps @ weights[1].T).astype(np.float32)


def even_places(sides: tuple[int, int], grid: tuple[int, int]) -> Places:
    """Returns the places of cells that share the image evenly, as patches do."""
    down, right = (side / cells for side, cells in zip(sides, grid, strict=True))
    return Places(((down - 1) / 2, (right - 1) / 2), (down, right), grid)


def trace_places(output: torch.Tensor, x: torch.Tensor, grid: tuple[int, int]) -> Places | None:
    """Computes where the cells of an output lie from the convolutions, poolings and paddings that led to it.

    A convolution looks at the center of its squared weights: weights trained with another padding have it off their
    middle, which after five strides is half a cell (EfficientNet-Lite0's in an EfficientNet-B0). The steps are read
    from the graph of autograd, so that a padding which depends on the size (SAME, as of timm's tf_ models) is the one
    that took place. Where paths meet that disagree (a pooled shortcut beside a convolution), the place is their mean.

    Args:
        output: of a layer, made from x.
        x: (N, 3, H, W), a leaf that requires a gradient.
        grid: rows and columns of the output.

    Returns:
        None if the steps found do not lead from the image to so many cells: some were made in another way.
    """
    nodes, queue = {output.grad_fn}, [output.grad_fn]
    while queue:
        for node, _ in queue.pop().next_functions:
            if node is not None and node not in nodes:
                nodes.add(node)
                queue.append(node)
    found: dict = {}  # node -> (2, 2): start and step of each axis
    for node in sorted(nodes, key=lambda node: (not hasattr(node, "variable"), node._sequence_nr())):
        if hasattr(node, "variable"):  # a leaf
            if node.variable is x:
                found[node] = np.array([[0.0, 0.0], [1.0, 1.0]])
            continue
        known = [found[source] for source, _ in node.next_functions if source in found]
        if known and not any(word in node.name() for word in MIXED):
            found[node] = _step(node, np.mean(known, axis=0))
    if output.grad_fn not in found:
        return None
    start, step = found[output.grad_fn]
    fits = all((cells - 1) * jump < side < (cells + LOST) * jump
               for cells, jump, side in zip(grid, step, x.shape[2:], strict=True))
    return Places(tuple(start.tolist()), tuple(step.tolist()), grid) if fits else None


def _step(node, places: np.ndarray) -> np.ndarray:
    """Returns start and step, (2, 2), behind a node of the graph from those before it."""
    start, step = places
    name = node.name()
    if name.startswith(PADS):
        pads = node._saved_pad if name.startswith("Constant") else node._saved_padding
        first = 2 if len(pads) == 6 else 0  # channels come last
        return np.array([start - step * (pads[first + 2], pads[first]), step]) if len(pads) >= 4 else places
    if name.startswith("Convolution") and node._saved_weight.ndim == 4:
        middle = _middle(node._saved_weight) * node._saved_dilation
        strides = node._saved_stride
    elif name.startswith(("MaxPool2D", "AvgPool2D")):
        middle = (np.array(node._saved_kernel_size) - 1) * getattr(node, "_saved_dilation", (1, 1)) / 2
        strides = node._saved_stride or node._saved_kernel_size
    else:
        return places
    return np.array([start + step * (middle - node._saved_padding), step * strides])


def _middle(weight: torch.Tensor) -> np.ndarray:
    """Returns row and column of the center of a convolution's squared weights, (out, in, h, w)."""
    power = weight.detach().square().sum((0, 1)).cpu().double().numpy()  # MPS has no double
    power = power if power.any() else np.ones_like(power)
    return np.array([power.sum(1 - axis) @ np.arange(side) for axis, side in enumerate(power.shape)]) / power.sum()


def measure_places(maps: torch.Tensor, x: torch.Tensor) -> Places:
    """Measures where cells lie, by the squared gradient of each cell with respect to the image.

    Its center alone would be too close to the middle of the image, as the image's edges cut off what a cell would see
    beyond them. So the gradients of the cells of all rows and columns are laid over each other, each pixel of that
    profile is the mean of the cells whose image has it, and its center is taken within a window that is as wide on
    both sides of it. The distance between cells is not measured: they share the image evenly.

    Args:
        maps: (N, C, h, w), made from x.
        x: (N, 3, H, W), a leaf that requires a gradient.
    """
    grid, sides = tuple(maps.shape[2:]), tuple(x.shape[2:])
    even = even_places(sides, grid)
    profiles = [np.zeros((2, 2 * side + 1)) for side in sides]  # sum and count at each distance from a cell's center
    for turn in range(max(grid)):
        cell = turn % grid[0], turn % grid[1]
        gradient, = torch.autograd.grad(maps[:, :, cell[0], cell[1]].square().sum(), x, retain_graph=True)
        weight = gradient.square().sum(1).cpu().double()  # MPS has no double
        weight = (weight / weight.sum((1, 2), keepdim=True).clamp_min(TINY)).sum(0).numpy()  # images count alike
        for axis, profile in enumerate(profiles):
            first = sides[axis] - round(even.start[axis] + cell[axis] * even.step[axis])
            profile[:, first:first + sides[axis]] += weight.sum(1 - axis), np.ones(sides[axis])
    down, right = (start + _center(profile, step)
                   for start, step, profile in zip(even.start, even.step, profiles, strict=True))
    return Places((down, right), even.step, grid, measured=True)


def _center(profile: np.ndarray, step: float) -> float:
    """Returns the center of a profile of sums and counts, (2, 2 side + 1), in pixels from its middle."""
    total, count = profile
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    distance = np.arange(len(mean)) - len(mean) // 2
    center = 0.0
    for _ in range(STEPS):
        window = np.maximum(0, 1 - abs(distance - center) / step) * mean
        if not window.sum():
            return 0.0
        center = float(window @ distance / window.sum())
    return center
