"""Learned networks of two inputs."""

import numpy as np
from matplotlib.figure import Figure

from nlme_torch.diagnostics.network_context import Transform
from nlme_torch.diagnostics.network_function import network_surface
from nlme_torch.diagnostics.network_inputs import Inputs
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, label, panels, with_units
from nlme_torch.plots.style import styled


@styled
def network_heatmap(
    fit: Fit,
    name: str,
    inputs: Inputs | None = None,
    *,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    output: int = 0,
    transform: Transform | None = None,
    points: int = 61,
    labels: Labels = None,
) -> Figure:
    """Plot a network as a function of two inputs, with its standard deviation between subjects.

    Lines show where the solutions of the subjects went: away from them the network was never asked. The
    second panel is left out where subjects do not differ.

    Args:
        fit: A fit.
        name: The network's attribute name.
        inputs: As in :func:`nlme_torch.plots.network`, with two inputs that vary.
        limits: Range of each of the two.
        output: Which output of the network.
        transform: Applied to the output.
        points: Values of each input.
        labels: What to write for inputs and for the network's name.

    Returns:
        The figure.

    Raises:
        ModelError: As in :func:`nlme_torch.plots.network`.
    """
    check_fit("network_heatmap", fit)
    labels = with_units(fit, labels)
    table, visited = network_surface(
        fit, name, inputs, limits=limits, output=output, transform=transform, points=points
    )
    first, second = table.columns[:2]
    titles = {
        "population": f"{label(name, labels)}, typical subject",
        "sd": "standard deviation between subjects",
    }
    if table["sd"].max() <= 1e-12 * (1 + table["population"].abs().max()):
        del titles["sd"]
    figure, axes = panels(len(titles), 2, width=3.7, height=3.1, sharex=True, sharey=True)
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        surface = table.pivot(index=second, columns=first, values=column)
        mesh = ax.pcolormesh(surface.columns, surface.index, surface.to_numpy(), shading="gouraud", rasterized=True)
        if np.ptp(surface.to_numpy()) > 0:
            lines = ax.contour(
                surface.columns,
                surface.index,
                surface.to_numpy(),
                levels=6,
                colors="white",
                linewidths=0.5,
                linestyles="solid",
            )
            ax.clabel(lines, fontsize=6.5, fmt="%.3g")
        figure.colorbar(mesh, ax=ax, pad=0.02)
        ends = ax.get_xlim(), ax.get_ylim()
        for _, path in visited.groupby(["call", "id"], sort=False):
            ax.plot(path[first], path[second], color="black", linewidth=0.6, alpha=0.5)
        ax.set_xlim(*ends[0])
        ax.set_ylim(*ends[1])
        ax.grid(False)
        ax.set_title(title)
        ax.set_xlabel(label(str(first), labels))
    axes[0].set_ylabel(label(str(second), labels))
    return figure
